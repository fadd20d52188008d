import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem, copy_files

from memlm.jobs.on_ray.ray_files import ray_storage
from tests.support.faults import FaultyProxy, client_environment, faulty_s3, make_bucket


@pytest.fixture(scope="module")
def proxy() -> Iterator[FaultyProxy]:
    with faulty_s3() as proxy:
        proxy.stall_seconds = 0.5
        yield proxy


@pytest.fixture
def bucket(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> str:
    for name, value in client_environment(proxy).items():
        monkeypatch.setenv(name, value)
    return make_bucket(proxy)


def filesystem_of(uri: str) -> FileSystem:
    """The object as a worker receives it."""
    arguments = pickle.loads(pickle.dumps(ray_storage(uri)))
    assert arguments["storage_path"] == "/"
    found = arguments["storage_filesystem"]
    assert isinstance(found, FileSystem) and found == ray_storage(uri)["storage_filesystem"]
    return found


def test_a_folder_on_a_disk_is_left_to_ray(tmp_path: Path) -> None:
    assert ray_storage(str(tmp_path)) == {"storage_path": str(tmp_path)}


def test_a_tree_is_uploaded_and_downloaded_completely_despite_faults(
    proxy: FaultyProxy, bucket: str, tmp_path: Path
) -> None:
    files = {
        "tuner.pkl": b"\0" * 5000,
        "trial_1_plan=ref-12/result.json": b"{}\n" * 400,
        "trial_1_plan=ref-12/deeper/params.json": b"1",
    }
    for name, body in files.items():
        (tmp_path / "there" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "there" / name).write_bytes(body)
    ours = filesystem_of(f"{bucket}/ray")
    proxy.plan(seed=3, share=0.3)
    copy_files(str(tmp_path / "there"), "/sweep", LocalFileSystem(), ours)
    copy_files("/sweep", str(tmp_path / "back"), ours, LocalFileSystem())
    injected = sum(proxy.injected.values())
    proxy.plan()
    assert injected >= 3
    found = {
        str(path.relative_to(tmp_path / "back")): path for path in (tmp_path / "back").rglob("*") if path.is_file()
    }
    assert {name: path.read_bytes() for name, path in found.items()} == files


def test_it_answers_as_a_filesystem_does(bucket: str) -> None:
    ours = filesystem_of(f"{bucket}/ray")
    ours.create_dir("/sweep")
    with ours.open_output_stream("/sweep/.marker") as stream:
        stream.write(b"ab")
        stream.write(b"c")
    file, folder, nothing = ours.get_file_info(["/sweep/.marker", "/sweep", "/other"])
    assert (file.type, file.size, folder.type, nothing.type) == (
        FileType.File,
        3,
        FileType.Directory,
        FileType.NotFound,
    )
    ours.move("/sweep/.marker", "/sweep/moved")
    assert [info.path for info in ours.get_file_info(FileSelector("/sweep"))] == ["/sweep/moved"]
    with ours.open_input_stream("/sweep/moved") as stream:
        assert stream.read() == b"abc"
    with pytest.raises(FileNotFoundError):
        ours.open_input_stream("/sweep/.marker")
    with pytest.raises(FileNotFoundError):
        ours.get_file_info(FileSelector("/other"))
    with pytest.raises(OSError, match="cannot be appended to"):
        ours.open_append_stream("/sweep/moved")
    ours.delete_dir("/sweep")
    assert ours.get_file_info("/sweep").type == FileType.NotFound
