"""Requirements: how they are spelled in signed metadata, and how a device's capabilities are judged by them."""

from __future__ import annotations

import random

import pytest

from modelsync_protocol import caps
from modelsync_protocol.errors import FormatError, UsageError
from modelsync_protocol.requirements import capabilities, releases, terms
from modelsync_protocol.requirements.judging import Judgement, judge

EVERYTHING = {
    "onnx.opset": "17",
    "onnx.ir": "8",
    "onnx.opset.ai.onnx.ml": "3",
    "onnx.opset.com.acme": "1",
    "package:scikit-learn": "==1.5.2",
    "package:numpy": ">=1.26,<2",
    "runtime:onnxruntime": ">=1.18",
    "tflite.runtime": ">=2.6.0",
    "tflite.custom": "FlexErf,TFLite_Detection_PostProcess",
    "gguf.version": "3",
    "gguf.architecture": "llama",
    "openvino.ir": "11",
    "python": "==3.11.*",
    "arch": "aarch64|x86_64",
    "memory": "512MiB",
    "disk": "2GB",
    "accelerator": "hailo|edgetpu",
    "npu.tops": "4",
}


def here(**more: object) -> dict[str, object]:
    """A device on which one process runs models with an old ONNX Runtime."""
    packages = {"onnxruntime": "1.16.3", "scikit-learn": "1.5.2", "numpy": "1.26.4"}
    process = {"python": "3.11.2", "packages": packages, "complete": True}
    return {"arch": "aarch64", "memory": 2**30, "disk": 2**30, "environments": [process], **more}


def only(key: str, value: str, **more: object) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """What is missing, unknown and untold of one requirement."""
    found = judge({key: value}, here(**more))
    return found.missing, found.unknown, found.untold


def with_packages(**packages: str) -> dict[str, object]:
    named = {name.replace("_", "-"): version for name, version in packages.items()}
    return {"environments": [{"python": "3.11.2", "packages": named, "complete": True}]}


def test_what_is_spelled_is_read_back_and_the_usual_is_short() -> None:
    assert terms.decode(terms.encode(EVERYTHING)) == EVERYTHING
    assert terms.encode({"onnx.ir": "8", "onnx.opset": "17"}) == "o17i8"
    assert terms.encode({"package:scikit-learn": "==1.5.2"}) == "s1.5.2"
    assert terms.encode({"package:scikit-learn": "*"}) == "package:scikit-learn=*"
    assert terms.encode({}) == "" and terms.decode("") == {}


def test_each_version_has_its_own_and_runs_are_written_once() -> None:
    opsets = {1: {}, 2: {"onnx.opset": "15"}, 3: {"onnx.opset": "15"}, 4: {"onnx.opset": "17"}, 7: {"onnx.opset": "17"}}
    spelled = terms.spell_versions(opsets)
    assert spelled == "7:o17;3:o15;1:"
    for version, needed in opsets.items():
        assert terms.of_version(spelled, version) == needed
    assert terms.of_version(spelled, 8) == {}, "signed by a publisher that does not know the field"
    assert terms.spell_versions({1: {"onnx.ir": "8"}, 2: {}}) == "1:i8"
    assert terms.spell_versions({1: {}, 2: {}}) is None and terms.of_version(None, 3) == {}


def test_requirements_of_a_newer_publisher_are_kept() -> None:
    assert terms.decode("o17z3 npu.tops>=4") == {"onnx.opset": "17", "z": "3", "npu.tops": ">=4"}


@pytest.mark.parametrize(
    "spelled",
    ["o17", "1:o17;2:o15", "2:o17;2:o15", "0:o17", "1:o17o18", "1:=x", "1:a  b", "1:a=b a=c", "1:ä=1", 7, {},
     "x" * 70_000, "1:" + " ".join(f"k{n}=1" for n in range(caps.MAX_REQUIREMENTS + 1)), "1:key=" + "1" * 200],
)  # fmt: skip
def test_nonsense_is_refused_in_one_sentence(spelled: object) -> None:
    with pytest.raises(FormatError) as refusal:
        terms.of_version(spelled, 1)
    assert str(refusal.value).count("\n") == 0


def test_damage_is_never_more_than_a_format_error() -> None:
    whole = terms.spell_versions({9: EVERYTHING, 3: {"onnx.opset": "12"}})
    assert whole is not None
    chance = random.Random(5)
    for _ in range(1000):
        text = list(whole)
        for _ in range(chance.randint(1, 4)):
            text[chance.randrange(len(text))] = chr(chance.randrange(32, 127))
        try:
            found = terms.of_version("".join(text), 9)
        except FormatError:
            continue
        judge(found, here())
        assert terms.decode(terms.encode(found)) == found


def test_what_a_person_writes_is_checked_and_brought_into_form() -> None:
    words = ["onnx.opset>=18", "memory >= 256MiB", "package:numpy>=1.26, <2", "python=3.11.*", "arch=aarch64|x86_64"]
    assert terms.from_words(words) == {
        "onnx.opset": "18",
        "memory": "256MiB",
        "package:numpy": ">=1.26,<2",
        "python": "==3.11.*",
        "arch": "aarch64|x86_64",
    }


@pytest.mark.parametrize(
    "word", ["opset", "onnx.opset=new", "memory=lots", "package:numpy=>>1", "=3", "a b=c;d", "python>=three"]
)
def test_a_person_is_told_what_to_write(word: str) -> None:
    with pytest.raises(UsageError, match=r"write it as|such as|use "):
        terms.from_words([word])
    with pytest.raises(UsageError, match="twice"):
        terms.from_words(["arch=aarch64", "arch=x86_64"])


def test_an_opset_that_the_runtime_is_too_old_for_is_said_with_the_release_that_reads_it() -> None:
    assert only("onnx.opset", "19") == ((), (), ())
    (said,), _, _ = only("onnx.opset", "21")
    assert said == "ONNX opset 21 is required, which takes onnxruntime 1.18 or newer; onnxruntime 1.16.3 is here"
    assert only("onnx.ir", "10")[0] and not only("onnx.ir", "9")[0]
    assert only("onnx.opset.ai.onnx.ml", "4")[0] and not only("onnx.opset.ai.onnx.ml", "3")[0]
    assert only("onnx.opset.com.acme", "1") == ((), (), ("onnx.opset.com.acme",))


def test_releases_outside_the_table_are_not_guessed_beyond_it() -> None:
    newest = releases.ONNX_RUNTIME[-1][1].opset
    assert only("onnx.opset", str(newest + 1), **with_packages(onnxruntime="9.1"))[2] == ("onnx.opset",)
    assert only("onnx.opset", str(newest), **with_packages(onnxruntime="9.1")) == ((), (), ())
    assert only("onnx.opset", "12", **with_packages(onnxruntime="1.9.0"))[2] == ("onnx.opset",)
    assert only("onnx.opset", "21", **with_packages(onnxruntime="1.9.0"))[0]
    assert only("onnx.opset", "17", **with_packages(onnxruntime=""))[2] == ("onnx.opset",), "there, of no known version"


def test_a_runtime_that_is_not_there_is_missing_where_all_packages_are_known() -> None:
    assert "no runtime for ONNX" in only("onnx.opset", "17", **with_packages(numpy="2.0"))[0][0]
    assert only("onnx.opset", "17", **with_packages(openvino="2024.1"))[2] == ("onnx.opset",)
    assert not only("onnx.opset", "17", **with_packages(onnxruntime_gpu="1.20"))[0]
    assert "no runtime for it" in only("tflite.runtime", ">=2.6", **with_packages(numpy="2.0"))[0][0]
    assert (
        "tflite-runtime 2.5.0 is here" in only("tflite.runtime", ">=2.6", **with_packages(tflite_runtime="2.5.0"))[0][0]
    )
    assert not only("tflite.runtime", ">=2.6", **with_packages(tflite_runtime="2.14.0"))[0]
    assert only("tflite.runtime", ">=2.6", **with_packages(ai_edge_litert="1.2")) == ((), (), ())
    assert only("tflite.runtime", ">=2.30", **with_packages(ai_edge_litert="2.0"))[2] == ("tflite.runtime",)
    assert "2022.1 or newer" in only("openvino.ir", "11", **with_packages(openvino="2021.4"))[0][0]
    assert only("openvino.ir", "11", **with_packages(openvino="2024.1")) == ((), (), ())
    assert "llama.cpp is not installed" in only("gguf.version", "3")[0][0]
    assert only("gguf.version", "3", **with_packages(llama_cpp_python="0.3")) == ((), (), ())


def test_packages_python_architecture_memory() -> None:
    assert only("package:scikit-learn", "==1.5.2") == ((), (), ())
    assert only("package:Scikit_Learn", "==1.4.0")[0] == (
        "scikit-learn ==1.4.0 is required; scikit-learn 1.5.2 is here",
    )
    assert only("package:pandas", "*")[0] == ("pandas is required; it is not installed where models run",)
    assert only("runtime:onnxruntime", ">=1.18")[0] and only("runtime:vendor", ">=1")[2] == ("runtime:vendor",)
    assert only("python", ">=3.12")[0] and not only("python", "==3.11.*")[0]
    assert only("arch", "arm64") == ((), (), ()) and only("arch", "x86_64|armhf")[0]
    assert only("memory", "2GiB")[0] == ("memory of 2GiB is required; here are 1024 MiB",)
    assert only("memory", "500MB") == ((), (), ())
    assert judge({"disk": "9GB"}, here()).room and not judge({"disk": "9GB"}, here()).missing


def test_what_nobody_can_tell_is_neither_met_nor_missing() -> None:
    assert only("npu.tops", "4") == ((), ("npu.tops",), ())
    found = judge(EVERYTHING, {})
    assert not found.missing and not found.room and found.unknown == ("npu.tops",)
    assert set(found.untold) == EVERYTHING.keys() - {"npu.tops"}


def test_what_is_set_counts_whatever_is_seen() -> None:
    word = {"accelerator": "hailo", "onnx.opset": "21", "npu.tops": "8", "tflite.custom": "A,B", "memory": "4GiB"}
    assert only("accelerator", "hailo|edgetpu", has=word) == ((), (), ())
    assert only("accelerator", "cuda", has=word)[0]
    assert only("onnx.opset", "21", has=word) == ((), (), ()) and only("onnx.opset", "22", has=word)[0]
    assert only("npu.tops", "4", has=word) == ((), (), ()) and only("npu.tops", "9", has=word)[0]
    assert only("tflite.custom", "B", has=word) == ((), (), ()) and only("tflite.custom", "B,C", has=word)[0]
    assert only("memory", "2GiB", has=word) == ((), (), ())


def test_a_runtime_that_is_set_speaks_for_who_says_nothing() -> None:
    word = {"runtime:onnxruntime": "1.16.3", "package:numpy": "1.24", "runtime:tflite": "2.5.0"}
    device = {"has": word}
    assert "onnxruntime 1.16.3 is here" in judge({"onnx.opset": "21"}, device).missing[0]
    assert judge({"onnx.opset": "17", "runtime:onnxruntime": ">=1.10"}, device) == Judgement()
    assert judge({"package:numpy": ">=1.26"}, device).missing and judge({"tflite.runtime": ">=2.6"}, device).missing
    assert judge({"package:pandas": "*", "gguf.version": "3"}, device).untold == ("gguf.version", "package:pandas")
    assert not judge({"onnx.opset": "21"}, {**here(**with_packages(onnxruntime="1.23.2")), "has": word}).missing


def test_the_packages_of_tensorflow_lite_count_apart() -> None:
    assert only("runtime:tflite", ">=2.6", **with_packages(ai_edge_litert="1.2")) == ((), (), ())
    assert only("runtime:tflite", "*", **with_packages(tflite_micro="0.1")) == ((), (), ())
    assert "no runtime for it" in only("runtime:tflite", ">=2.6", **with_packages(numpy="2"))[0][0]


def test_each_process_that_runs_the_model_has_to_be_able_to() -> None:
    old = here()["environments"]
    new = with_packages(onnxruntime="1.23.2")["environments"]
    assert isinstance(old, list) and isinstance(new, list)
    assert only("onnx.opset", "21", environments=[*new, *old])[0] and not only("onnx.opset", "21", environments=new)[0]


def test_the_short_line_of_a_report_says_what_decides_mostly() -> None:
    line = capabilities.line(here())
    assert line == "arch=aarch64 memory=1024 python=3.11.2 onnxruntime=1.16.3 scikit-learn=1.5.2"
    read = capabilities.of_line(line)
    wanted = {
        "onnx.opset": "21",
        "memory": "2GiB",
        "arch": "aarch64",
        "package:scikit-learn": "==1.5.2",
        "package:x": "*",
    }
    assert [said.partition(" is required")[0] for said in judge(wanted, read).missing] == [
        "memory of 2GiB",
        "ONNX opset 21",
    ]
    assert judge(wanted, read).untold == ("package:x",), "the line does not name every package"
    assert capabilities.of_line(None) == {} and capabilities.of_line("python") == {} == capabilities.of_line("x" * 9999)


def test_a_process_is_heard_whatever_it_says() -> None:
    words: list[object] = [None, [], {}, {"packages": 3}, {"python": 3, "packages": {"x": 1}, "complete": "yes"}]
    for nonsense in words:
        said = capabilities.environment(nonsense)
        assert said is None or judge(EVERYTHING, {"environments": [said]}).missing == ()


def test_the_table_says_what_the_installed_runtime_reads() -> None:
    from tests.runtimes.opsets import measure

    version, reads = measure()
    release = releases.release_of(version)
    if release[:2] <= releases.ONNX_RUNTIME_KNOWN:
        assert releases.onnx_runtime_reads(release) == reads
