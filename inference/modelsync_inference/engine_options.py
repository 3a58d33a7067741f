"""The options of `modelsync-infer` that say what runs models: reading them. No runtime is imported for it."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from modelsync_inference.runtimes.onnx_sessions import OnnxBy
from modelsync_inference.runtimes.providers import Provider, Providers, full_name
from modelsync_protocol.errors import UsageError

EVERY = ""
"""The name that stands for all models without their own."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--providers",
        default=[],
        action="append",
        metavar="[MODEL:]NAME,...",
        help="execution providers of ONNX Runtime, the best first, such as tensorrt,cuda or anomaly:xnnpack; the CPU "
        "comes last by itself, and takes over what is not to be had; may be given several times",
    )
    parser.add_argument(
        "--provider-option",
        default=[],
        action="append",
        metavar="[MODEL:]NAME.KEY=VALUE",
        help="an option of a provider, such as cuda.device_id=1; may be given several times",
    )
    parser.add_argument(
        "--provider-library",
        default=[],
        action="append",
        metavar="NAME=PATH",
        help="the library of a provider that is a plugin of ONNX Runtime (1.22 or newer); may be given several times",
    )
    parser.add_argument(
        "--require-provider",
        action="store_true",
        help="refuse a version for which the first of its providers is not in use, instead of running it on the next",
    )
    parser.add_argument(
        "--onnx-runtime",
        default=[],
        action="append",
        metavar="[MODEL:]NAME",
        help=f"what runs ONNX files: {' or '.join(OnnxBy)} (default: {OnnxBy.ONNX_RUNTIME}); may be repeated",
    )
    parser.add_argument(
        "--context-tokens",
        default=4096,
        type=int,
        metavar="N",
        help="tokens of one answer of a language model with its prompt; they take memory (default: %(default)s)",
    )
    parser.add_argument(
        "--generation-seconds",
        default=600.0,
        type=float,
        help="patience with one answer of a language model (default: %(default)s)",
    )


def check(arguments: argparse.Namespace) -> None:
    """UsageError says which option can't be meant so."""
    providers_of(arguments)
    onnx_by_of(arguments)
    if arguments.context_tokens < 1 or arguments.generation_seconds <= 0:
        raise UsageError("--context-tokens and --generation-seconds must be positive.")


def providers_of(arguments: argparse.Namespace) -> dict[str, Providers]:
    """Per model, and for all others by EVERY."""
    libraries = dict(_library(text) for text in arguments.provider_library)
    options: dict[tuple[str, str], dict[str, str]] = {}
    for text in arguments.provider_option:
        model, rest = _model_and_rest(text, arguments.model)
        key, equals, value = rest.partition("=")
        name, dot, option = key.partition(".")
        if not (equals and dot and name and option):
            raise UsageError(f"--provider-option {text!r:.80} is not NAME.KEY=VALUE, such as cuda.device_id=1.")
        options.setdefault((model, _name(name, libraries)), {})[option] = value
    asked: dict[str, tuple[Provider, ...]] = {}
    for text in arguments.providers:
        model, rest = _model_and_rest(text, arguments.model)
        names = [_name(name.strip(), libraries) for name in rest.split(",") if name.strip()]
        if not names or model in asked:
            raise UsageError(f"--providers {text!r:.80}: name providers, once for each model, such as tensorrt,cuda.")
        asked[model] = tuple(
            Provider(name, options.get((EVERY, name), {}) | options.get((model, name), {}), libraries.get(name, ""))
            for name in dict.fromkeys(names)
        )
    _check_used({name for _, name in options}, asked.values(), "--provider-option")
    _check_used(libraries, asked.values(), "--provider-library")
    if arguments.require_provider and not asked:
        raise UsageError("--require-provider needs --providers, of which it requires the first.")
    return {model: Providers(found, arguments.require_provider) for model, found in asked.items()}


def onnx_by_of(arguments: argparse.Namespace) -> dict[str, OnnxBy]:
    """Per model, and for all others by EVERY."""
    found = {}
    for text in arguments.onnx_runtime:
        model, rest = _model_and_rest(text, arguments.model)
        if rest not in set(OnnxBy):
            raise UsageError(f"--onnx-runtime {rest!r:.40} is not one of {', '.join(OnnxBy)}.")
        found[model] = OnnxBy(rest)
    return found


def _model_and_rest(text: str, models: Sequence[str]) -> tuple[str, str]:
    model, colon, rest = text.partition(":")
    if not colon or "=" in model:
        return EVERY, text
    if model not in models:
        raise UsageError(
            f"{text!r:.80} is for a model {model!r} that is not served; --model names {', '.join(models)}."
        )
    return model, rest


def _library(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or not name or not Path(path).is_file():
        raise UsageError(f"--provider-library {text!r:.120} is not NAME=PATH with the path of a file.")
    return name, str(Path(path).resolve())


def _name(text: str, libraries: Mapping[str, str]) -> str:
    """A plugin calls its provider what it likes."""
    return text if text in libraries else full_name(text)


def _check_used(names: Iterable[str], asked: Iterable[tuple[Provider, ...]], option: str) -> None:
    known = {provider.name for providers in asked for provider in providers}
    for name in names:
        if name not in known:
            raise UsageError(f"{option} is for {name}, which no --providers asks for.")
