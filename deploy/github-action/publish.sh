#!/usr/bin/env bash
# The action's one step: INPUT_… in, GITHUB_OUTPUT out. Keys lie in a folder of their own, which is removed at the end.
set -euo pipefail

mapfile -t packages < <(printf '%s\n' "${INPUT_INSTALL:-}" | sed '/^[[:space:]]*$/d')
if [ ${#packages[@]} -gt 0 ]; then
  python -m pip install --quiet --disable-pip-version-check -- "${packages[@]}"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mapfile -t more < <(printf '%s\n' "${INPUT_ARGUMENTS:-}" | sed '/^[[:space:]]*$/d')
if [ -n "${INPUT_PROBE:-}" ]; then
  more+=(--probe "$INPUT_PROBE")
fi
if [ -n "${INPUT_KEYS:-}" ]; then
  mkdir -m 700 "$work/keys"
  if ! base64 -d <<< "$INPUT_KEYS" 2> "$work/why" | tar -C "$work/keys" -x 2>> "$work/why"; then
    echo "::error::the input keys is not base64 of a tar: make it with  tar -C KEYS --exclude=offline -c . | base64 -w0"
    exit 2
  fi
  more+=(--keys "$work/keys")
fi

code=0
modelsync publish "${more[@]}" --json -- "$INPUT_STORE" "$INPUT_MODEL" "$INPUT_SOURCE" > "$work/published.json" 2> "$work/said" || code=$?
cat "$work/said" >&2
if [ $code -ne 0 ]; then
  sentence=$(tail -n 1 "$work/said" | sed 's/%/%25/g; s/\r/%0D/g')
  echo "::error title=modelsync publish::$sentence"
  exit $code
fi
python - "$work/published.json" >> "$GITHUB_OUTPUT" << 'END'
import json, sys
made = json.load(open(sys.argv[1]))
print(f"version={made['version']}\nmanifest={made['manifest']}\ninstall-bytes={made['install_bytes']}")
END
if [ -n "${GITHUB_STEP_SUMMARY:-}" ]; then
  python - "$work/published.json" >> "$GITHUB_STEP_SUMMARY" << 'END'
import json, sys
made = json.load(open(sys.argv[1]))
print(f"### {made['name']} version {made['version']}\n\n| from | bytes |\n|---|---:|\n| nothing | {made['install_bytes']:,} |")
for update in made["updates"]:
    print(f"| version {update['from']} | {update['bytes']:,} |")
END
fi
