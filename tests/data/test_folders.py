"""The shards of a folder that is read as a corpus: each is read once, and every other file is
reported with its reason."""

import os

import pytest

from memlm.data.file_kinds import FileKind, ShardError, hidden_part, is_shard, kind_of
from memlm.data.folders import BROKEN_LINK, HIDDEN, LOOP, NO_FILE, OTHER_KIND, SEEN_BEFORE, list_shards, split_names


def lay(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text('{"text": "a"}\n')


def listed(root):
    """The shards below the root, and the reports."""
    messages: list[str] = []
    shards = [os.path.relpath(path, root) for path in list_shards(str(root), report=messages.append)]
    return shards, [message.removeprefix(f"{root}: left out ") for message in messages]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl", FileKind("lines")),
        ("a.NDJSON", FileKind("lines")),
        ("b/c.d/a.JSONL.ZST", FileKind("lines", "zstd")),
        ("a.ndjson.zstd", FileKind("lines", "zstd")),
        ("a.jsonl.gz", FileKind("lines", "gzip")),
        ("a.json.Gz", FileKind("json", "gzip")),
        ("a.csv", FileKind("csv")),
        ("A.PARQUET", FileKind("parquet")),
        ("a.csv.gz", None),
        ("a.parquet.zst", None),
        ("a.jsonl.xz", None),
        ("a.jsonl~", None),
        ("a.zst", None),
        (".jsonl", None),
        ("jsonl", None),
        ("jsonl.zst", None),
        ("a.jsonl/readme", None),
    ],
)
def test_the_kind_of_a_file_follows_from_its_name(name, kind):
    assert kind_of(name) == kind


def test_plain_json_next_to_shards_is_no_shard_and_compressed_json_is_one():
    assert not is_shard("dataset_info.json") and is_shard("c4-train.00000-of-01024.json.gz") and is_shard("a.json.zst")


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("a/b.jsonl", ""),
        (".a.jsonl", ".a.jsonl"),
        ("a/.ipynb_checkpoints/b.jsonl", "a/.ipynb_checkpoints/"),
        ("__MACOSX/a/._b.jsonl", "__MACOSX/"),
        ("a/_temporary/0/part.jsonl", "a/_temporary/"),
        ("_a.jsonl", ""),
    ],
)
def test_a_name_is_hidden_from_its_first_hidden_part_on(name, part):
    assert hidden_part(name) == part


def test_shards_are_found_at_any_depth_in_one_order_and_other_files_are_reported(tmp_path):
    names = ["b/shard_1.jsonl.zst", "b/shard_0.jsonl.zstd", "a.parquet", "c/d/e.jsonl", "b.JSONL.ZST", "f.jsonl.gz"]
    lay(tmp_path, *names, "readme.md", "x.json", "y.zst")
    shards, messages = listed(tmp_path)
    assert shards == [
        "a.parquet",
        "b/shard_0.jsonl.zstd",
        "b/shard_1.jsonl.zst",
        "b.JSONL.ZST",
        "c/d/e.jsonl",
        "f.jsonl.gz",
    ]
    assert messages == [f"3 ({OTHER_KIND}): 'readme.md', 'x.json', 'y.zst'"]
    assert list_shards(str(tmp_path / "a.parquet"), report=print) == [str(tmp_path / "a.parquet")]


def test_hidden_and_system_files_are_left_out_and_reported(tmp_path):
    lay(tmp_path, "a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", "b/.c.jsonl", "__MACOSX/._a.jsonl", ".git/x")
    assert listed(tmp_path) == (
        ["a.jsonl"],
        [f"4 ({HIDDEN}): '.git/', '.ipynb_checkpoints/', '__MACOSX/', 'b/.c.jsonl'"],
    )


@pytest.mark.parametrize("name", ["$Recycle.Bin/a.jsonl", "@Recycle/a.jsonl", "_change_data/a.parquet", "~$a.jsonl"])
def test_system_folders_are_recognised_in_any_case(tmp_path, name):
    lay(tmp_path, "a.jsonl", name)
    shards, messages = listed(tmp_path)
    assert shards == ["a.jsonl"] and messages[0].startswith(f"1 ({HIDDEN})")


def test_a_name_that_is_not_utf8_is_refused_in_one_line(tmp_path):
    with open(os.fsencode(tmp_path) + b"/n\xff.jsonl", "w") as file:
        file.write("{}\n")
    with pytest.raises(ShardError, match=r"^'n\\udcff.jsonl': the file's name is not UTF-8. Rename it"):
        listed(tmp_path)


def test_a_hidden_root_is_read(tmp_path):
    lay(tmp_path, ".cache/corpus/a.jsonl")
    assert listed(tmp_path / ".cache/corpus") == (["a.jsonl"], [])


def test_linked_folders_and_files_are_read(tmp_path):
    lay(tmp_path, "corpus/a.jsonl", "elsewhere/deep/b.jsonl", "elsewhere/c.jsonl", "blobs/4f2a")
    (tmp_path / "corpus/link").symlink_to("../elsewhere")
    (tmp_path / "corpus/d.jsonl").symlink_to(tmp_path / "blobs/4f2a")  # like files in the hub's cache
    assert listed(tmp_path / "corpus") == (["a.jsonl", "d.jsonl", "link/c.jsonl", "link/deep/b.jsonl"], [])


def test_a_corpus_of_links_alone_is_read_and_so_is_a_linked_root(tmp_path):
    lay(tmp_path, "disk1/a.jsonl", "disk2/a.jsonl")
    (tmp_path / "corpus").mkdir()
    for name in ("disk1", "disk2"):
        (tmp_path / "corpus" / name).symlink_to(tmp_path / name, target_is_directory=True)
    (tmp_path / "current").symlink_to("corpus")
    assert listed(tmp_path / "current") == (["disk1/a.jsonl", "disk2/a.jsonl"], [])


def test_circular_links_end_and_each_real_file_is_read_once_under_its_own_name(tmp_path):
    lay(tmp_path, "corpus/z/a.jsonl", "corpus/b.jsonl", "other/c.jsonl", "other/secret.jsonl")
    root = tmp_path / "corpus"
    (root / "z/up").symlink_to("..")  # a loop
    (root / "all").symlink_to("/")  # following it would list the whole machine
    (root / "a").symlink_to("z")  # sorts before its target
    (root / "a.jsonl").symlink_to("b.jsonl")
    (root / "other").symlink_to("../other")
    (tmp_path / "other/back").symlink_to("../corpus")
    (root / "self").symlink_to("self")
    (root / "gone.jsonl").symlink_to("nowhere")
    shards, messages = listed(root)
    assert shards == ["b.jsonl", "other/c.jsonl", "other/secret.jsonl", "z/a.jsonl"]
    assert messages == [
        f"2 ({BROKEN_LINK}): 'gone.jsonl', 'self'",
        f"2 ({LOOP}): 'all/', 'z/up/'",
        f"3 ({SEEN_BEFORE}): 'a.jsonl', 'a/', 'other/back/'",
    ]


def test_a_link_to_a_parent_of_a_listed_folder_lists_that_folder_once(tmp_path):
    lay(tmp_path, "data/part/a.jsonl", "data/b.jsonl")
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus/1").symlink_to("../data/part")
    (tmp_path / "corpus/2").symlink_to("../data")
    assert listed(tmp_path / "corpus") == (["1/a.jsonl", "2/b.jsonl"], [f"1 ({SEEN_BEFORE}): '2/part/'"])


def test_special_files_are_left_out_and_do_not_hang(tmp_path):
    lay(tmp_path, "a.jsonl")
    os.mkfifo(tmp_path / "b.jsonl")
    assert listed(tmp_path) == (["a.jsonl"], [f"1 ({NO_FILE}): 'b.jsonl'"])


def test_many_names_are_counted_by_kind_after_the_first(tmp_path):
    lay(tmp_path, "a.jsonl", *(f"{number:03d}.txt" for number in range(20)), *(f"x{number}.md" for number in range(7)))
    _, (messages,) = listed(tmp_path)
    assert messages.startswith(f"27 ({OTHER_KIND}): '000.txt', ") and messages.endswith("'019.txt' and 7 more (7 .md)")


def test_the_error_for_a_folder_without_shards_names_its_files(tmp_path):
    with pytest.raises(ShardError, match=r"no shard found.*\.zstd"):
        listed(tmp_path)
    lay(tmp_path, "a.txt", ".b.jsonl")
    with pytest.raises(
        ShardError,
        match=r"no shard found.*\(hidden, or a system folder\): '\.b\.jsonl'; 1 \(not a supported kind.*'a\.txt'",
    ):
        listed(tmp_path)
    with pytest.raises(ShardError, match="does not exist"):
        listed(tmp_path / "missing")
    with pytest.raises(ShardError, match="through storage"):
        list_shards("s3://bucket/corpus", report=print)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_an_unlistable_folder_is_reported(tmp_path):
    lay(tmp_path, "a.jsonl", "closed/b.jsonl")
    (tmp_path / "closed").chmod(0)
    try:
        with pytest.raises(ShardError, match="closed: cannot be listed"):
            listed(tmp_path)
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_names_in_a_store_follow_the_same_rules():
    names = ["a.jsonl", "b/", "", "b/.c/d.jsonl", "b/.c/e.jsonl", "b/F.JSONL.ZST", "g.txt"]
    shards, left_out = split_names(names)
    assert shards == ["a.jsonl", "b/F.JSONL.ZST"]
    assert [(each.name, each.reason) for each in left_out] == [("b/.c/", HIDDEN), ("g.txt", OTHER_KIND)]
