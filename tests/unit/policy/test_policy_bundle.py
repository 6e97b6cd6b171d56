"""Bundles: what is read, what is refused, and what the digest covers."""

from __future__ import annotations

from pathlib import Path

import pytest

from meshflow.errors import ConfigError
from meshflow.policy import Bundle, Policy
from meshflow.policy.data import parse_document

RULE = 'package meshflow.policy\n\ndecision := {"allow": true}\n'


def write(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def problem(root: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Bundle.load(root)
    return str(caught.value)


def test_data_documents_are_placed_by_their_folders(tmp_path: Path) -> None:
    write(
        tmp_path, {"a.rego": RULE, "data.json": '{"top": 1}', "x/y/data.yaml": "z: [1, 2]", "x/data.json": '{"w": 2}'}
    )
    assert Bundle.load(tmp_path).data == {"top": 1, "x": {"w": 2, "y": {"z": [1, 2]}}}


def test_tests_hidden_files_and_other_files_are_left_out(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "a.rego": RULE,
            "a_test.rego": "package t",
            ".git/b.rego": "x",
            ".c.rego": "x",
            "r.md": "x",
            "other.json": "[",
        },
    )
    assert list(Bundle.load(tmp_path).policies) == ["a.rego"]
    assert list(Bundle.load(tmp_path, tests=True).policies) == ["a.rego", "a_test.rego"]


def test_a_single_file_is_a_bundle(tmp_path: Path) -> None:
    write(tmp_path, {"only.rego": RULE})
    bundle = Bundle.load(tmp_path / "only.rego")
    assert (bundle.name, list(bundle.policies), bundle.data) == ("only", ["only.rego"], {})


def test_the_digest_follows_every_byte_and_name_and_nothing_else(tmp_path: Path) -> None:
    first = Bundle.load(write(tmp_path / "1", {"a.rego": RULE, "data.json": "{}"})).digest
    again = Bundle.load(write(tmp_path / "2", {"data.json": "{}", "a.rego": RULE, "notes.txt": "x"})).digest
    assert first == again
    others = [
        {"a.rego": RULE + " ", "data.json": "{}"},
        {"b.rego": RULE, "data.json": "{}"},
        {"a.rego": RULE, "data.json": "{} "},
        {"a.rego": RULE, "x/data.json": "{}"},
        {"a.rego": RULE},
    ]
    digests = {Bundle.load(write(tmp_path / f"o{i}", files)).digest for i, files in enumerate(others)}
    assert len(digests | {first}) == len(others) + 1


def test_contents_cannot_run_into_each_other_in_the_digest() -> None:
    one = Bundle.from_files({"a.rego": b"package a", "b.rego": b"package b"})
    two = Bundle.from_files({"a.rego": b"package ab.rego", "b.rego": b"package b"})
    assert one.digest != two.digest


def test_a_bundle_is_not_changed_by_its_files_after_loading(tmp_path: Path) -> None:
    write(tmp_path, {"a.rego": RULE})
    bundle = Bundle.load(tmp_path)
    write(tmp_path, {"a.rego": "package other"})
    assert bundle.policies["a.rego"] == RULE
    assert Bundle.load(tmp_path).digest != bundle.digest


@pytest.mark.parametrize(
    ("files", "part"),
    [
        ({"data.json": "{}"}, "holds no .rego file"),
        ({"a.rego": RULE, "data.json": '{"a": 1,\n\n "b": }'}, "data.json:3: not JSON"),
        ({"a.rego": RULE, "data.json": '{"a": NaN}'}, "NaN is no JSON number"),
        ({"a.rego": RULE, "data.json": '{"a": 1e999}'}, "not finite"),
        ({"a.rego": RULE, "data.json": '{"a": 1, "a": 2}'}, "'a' is given twice"),
        ({"a.rego": RULE, "data.json": "[1]"}, "must be a mapping, not list"),
        ({"a.rego": RULE, "data.json": "[" * 200_000}, "nested too deeply"),
        ({"a.rego": RULE, "data.json": '{"a":' + "[" * 120 + "]" * 120 + "}"}, "nested deeper than 100"),
        ({"a.rego": RULE, "data.json": b'{"a": "\xff"}'}, "data.json:1: not UTF-8"),
        ({"a.rego": b"package a\n# \xff"}, "a.rego:2: not UTF-8"),
        ({"a.rego": RULE, "data.yaml": "a: 1\na: 2"}, "data.yaml:2: not YAML: key 'a' is given twice"),
        ({"a.rego": RULE, "data.yaml": "a: &x [1]\nb: *x"}, "aliases are not allowed"),
        ({"a.rego": RULE, "data.yaml": "a: [1\n\nb: 2"}, "data.yaml:3: not YAML"),
        ({"a.rego": RULE, "data.yaml": "a: " + "[" * 100_000}, "not YAML"),
        ({"a.rego": RULE, "data.yaml": "a: " + "[" * 120 + "]" * 120}, "nested deeper than 100"),
        ({"a.rego": RULE, "data.yaml": "1: a"}, "must be text"),
        ({"a.rego": RULE, "data.yaml": "opens:\n  - 12:30"}, "data.yaml:2: not YAML: 12:30 could be a number"),
        ({"a.rego": RULE, "data.yaml": "opens: 12:30.5"}, "put it in quotes"),
        ({"a.rego": RULE, "data.yaml": "a: 2024-01-01"}, "type date"),
        ({"a.rego": RULE, "data.yaml": "a: !!python/object/apply:os.system [ls]"}, "not YAML"),
        ({"a.rego": RULE, "data.json": '{"x": {"y": 1}}', "x/data.json": '{"y": 2}'}, "'y', which another"),
        ({"a.rego": RULE, "data.json": '{"x": 1}', "x/data.json": '{"y": 2}'}, "'x', which another"),
        ({"a.rego": RULE, "data.json": '{"x": 1}', "data.yaml": "x: 1"}, "'x', which another"),
        ({"a.rego": "#" * ((1 << 20) + 1)}, "a.rego: a policy file may have"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, files: dict[str, str | bytes], part: str) -> None:
    message = problem(write(tmp_path, files))
    assert part in message
    assert str(tmp_path) in message


def test_a_link_out_of_the_bundle_is_refused_and_one_inside_followed(tmp_path: Path) -> None:
    write(tmp_path, {"secret.rego": RULE, "b/real.rego": RULE})
    (tmp_path / "b/inside.rego").symlink_to(tmp_path / "b/real.rego")
    assert set(Bundle.load(tmp_path / "b").policies) == {"real.rego", "inside.rego"}
    (tmp_path / "b/outside.rego").symlink_to(tmp_path / "secret.rego")
    assert "a link leads out of the bundle" in problem(tmp_path / "b")


def test_a_linked_folder_is_an_error_and_not_silence(tmp_path: Path) -> None:
    write(tmp_path, {"b/a.rego": RULE, "more/deny.rego": RULE})
    (tmp_path / "b/more").symlink_to(tmp_path / "more", target_is_directory=True)
    assert "a link to a folder" in problem(tmp_path / "b")


def test_a_missing_bundle_and_a_file_of_another_kind_are_refused(tmp_path: Path) -> None:
    assert "no such policy bundle" in problem(tmp_path / "nowhere")
    write(tmp_path, {"policy.txt": RULE})
    assert "ends in .rego" in problem(tmp_path / "policy.txt")


def test_too_many_bytes_in_all_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("meshflow.policy.bundle.MAX_BUNDLE_BYTES", 100)
    assert "bytes in all" in problem(write(tmp_path, {"a.rego": RULE, "data.json": '{"a": "' + "x" * 90 + '"}'}))


def test_ten_megabytes_of_data_are_read_whole(tmp_path: Path) -> None:
    body = ",".join(f'"user{i}": {{"roles": ["r{i % 7}"], "note": "{"n" * 70}"}}' for i in range(100_000))
    write(tmp_path, {"a.rego": RULE, "data.json": "{" + body + "}"})
    bundle = Bundle.load(tmp_path)
    assert len(bundle.data_json) > 10_000_000
    assert bundle.data["user99999"]["roles"] == ["r4"]


def test_an_overlay_merges_mappings_and_replaces_the_rest(tmp_path: Path) -> None:
    bundle = Bundle.load(write(tmp_path, {"a.rego": RULE, "data.json": '{"a": {"b": 1, "c": [1]}, "d": 2}'}))
    laid = bundle.with_data({"a": {"c": [2], "e": 3}})
    assert laid.data == {"a": {"b": 1, "c": [2], "e": 3}, "d": 2}
    assert laid.digest != bundle.digest
    assert bundle.data == {"a": {"b": 1, "c": [1]}, "d": 2}


@pytest.mark.parametrize("data", [{"a": float("nan")}, {"a": {1, 2}}, {"a": b"x"}, {1: "a"}])
def test_an_overlay_without_json_form_is_refused(data: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Policy.from_rego(RULE, data)


def test_a_policy_is_made_of_text_texts_or_a_folder(tmp_path: Path) -> None:
    assert list(Policy.from_rego(RULE).bundle.policies) == ["policy.rego"]
    assert list(Policy.from_rego({"b.rego": RULE, "a.rego": "package x"}).bundle.policies) == ["a.rego", "b.rego"]
    policy = Policy.from_bundle(write(tmp_path, {"a.rego": RULE}), data={"x": 1})
    assert policy.bundle.data == {"x": 1}
    assert policy.digest == policy.bundle.digest
    assert policy.digest[:12] in repr(policy)


@pytest.mark.parametrize("texts", [{}, {"a.txt": RULE}, "\ud800"])
def test_texts_that_cannot_be_a_bundle_are_refused(texts: dict[str, str] | str) -> None:
    with pytest.raises(ConfigError):
        Policy.from_rego(texts)


def test_an_unknown_engine_is_refused_with_the_choices() -> None:
    with pytest.raises(ConfigError, match="choose one of regorus"):
        Policy.from_rego(RULE, engine="regopy")


def test_numbers_of_yaml_are_those_that_opa_reads() -> None:
    text = "{a: 1e3, b: -2.5E-3, c: 0x1F, d: 010, e: 1_000, f: .5, g: '12:30', h: 1.0, i: e3}"
    assert parse_document(text.encode(), "data.yaml") == {
        "a": 1000.0, "b": -0.0025, "c": 31, "d": 8, "e": 1000, "f": 0.5, "g": "12:30", "h": 1.0, "i": "e3",
    }  # fmt: skip
