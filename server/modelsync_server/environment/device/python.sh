#!/bin/sh
# The Python of this environment: an interpreter of the device, which sees this environment's packages and no others.
# Written by modelsync. The folder may lie anywhere; nothing is written into it.
wanted=@PYTHON@
self=$(readlink -f "$0") || exit 5
home=${self%/*/*}

fail() {
  echo "$self: $1" >&2
  exit 5
}

case $home in
  *:*) fail "its folder has a colon in its path, which Python's search path can't hold: move it." ;;
esac

value=
for option; do
  [ -z "$value" ] || { value=; continue; }
  case $option in
    -c* | -m*) break ;;
    --check-hash-based-pycs | -W | -X) value=next ;;
    -W* | -X* | --*) ;;
    -*[EIS]*) fail "the options -E, -I and -S would hide this environment's packages: leave them out." ;;
    -*[WX]) value=next ;;
    -?*) ;;
    *) break ;;
  esac
done

# The first interpreter of the wanted release on the PATH that is no other environment's launcher.
find_python() {
  set -f
  IFS=:
  for name in "python$wanted" python3; do
    for folder in $PATH /usr/local/bin /usr/bin; do
      if [ -x "$folder/$name" ] && [ ! -e "$folder/../lib/modelsync/sitecustomize.py" ]; then
        echo "$folder/$name"
        return
      fi
    done
  done
}
python=${MODELSYNC_PYTHON:-$(find_python)}
[ -n "$python" ] || fail "no Python $wanted is on this machine: install python$wanted, or set MODELSYNC_PYTHON."
[ -x "$python" ] || fail "$python (MODELSYNC_PYTHON) is no program: give the path of a Python $wanted."

unset PYTHONHOME
export PYTHONNOUSERSITE=1
export PYTHONPATH="$home/lib/modelsync${PYTHONPATH:+:$PYTHONPATH}"
# Compiled files go elsewhere: a version's folder is what was signed, and stays so.
if [ -z "$PYTHONPYCACHEPREFIX" ]; then
  if [ -n "$XDG_CACHE_HOME$HOME" ]; then
    export PYTHONPYCACHEPREFIX="${XDG_CACHE_HOME:-$HOME/.cache}/modelsync/pycache"
  else
    export PYTHONDONTWRITEBYTECODE=1
  fi
fi
exec "$python" "$@"
