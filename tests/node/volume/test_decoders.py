"""Decoding gives the same values however it is done; a decoder that breaks down ends one process, and then nothing."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import psutil
import pytest
from pydicom import dcmread, uid
from pydicom.encaps import encapsulate, get_frame

from node.errors import NotAnalysed, Transient
from node.volume import Decoders, FrameCache, alone, load_volume
from node.volume.instance import read_instance
from node.volume.slices import Slice, slices_of
from tests.node.volume.breakdown import BREAKS_DOWN, NEVER_ENDS, ask_for, use_frail_decoder
from tests.node.volume.test_cache import LIMIT_SECONDS, entries, has
from tests.node.volume.test_known import is_quick, known_of
from tests.phantoms import default_voxels, write_series

SHAPE = (6, 40, 36)
VOXELS = default_voxels(SHAPE, (3.0, 1.5, 1.5)) - 500

LOAD = """\
import sys
from pathlib import Path
from node.volume import Decoders, FrameCache, load_volume
if __name__ == "__main__":
    with Decoders(2, FrameCache(Path(sys.argv[1]), 1 << 24)) as decoders:
        load_volume([Path(each) for each in sys.argv[2:]], decoders=decoders)
"""


@pytest.fixture
def cache(tmp_path: Path) -> FrameCache:
    return FrameCache(tmp_path / "decoded", 1 << 24)


@pytest.fixture
def decoders(cache: FrameCache) -> Iterator[Decoders]:
    with Decoders(2, cache) as made:
        yield made


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return write_series(tmp_path / "a", shape=SHAPE, voxels=VOXELS, transfer_syntax=uid.JPEGLSLossless)


def only_slice(path: Path) -> Slice:
    (one,) = slices_of([read_instance(path, 1)])
    return one


@pytest.mark.parametrize("transfer_syntax", [uid.JPEG2000Lossless, uid.RLELossless], ids=lambda each: each.keyword)
def test_values_are_those_written(tmp_path: Path, transfer_syntax: uid.UID, decoders: Decoders) -> None:
    paths = write_series(tmp_path / "a", shape=SHAPE, voxels=VOXELS, transfer_syntax=transfer_syntax)
    for _ in range(2):
        volume = load_volume(paths[::-1], decoders=decoders)
        np.testing.assert_array_equal(volume.voxels, VOXELS)
        assert volume.voxels.dtype == np.int16


def test_a_damaged_image_is_refused_as_without_them(paths: list[Path], decoders: Decoders) -> None:
    for damaged in paths[3:]:
        image = dcmread(damaged)
        image.PixelData = encapsulate([get_frame(image.PixelData, 0)[:100] + b"\xff\xd9"])
        image.save_as(damaged)
    messages = []
    for pool in (None, decoders):
        with pytest.raises(NotAnalysed) as caught:
            load_volume(paths, decoders=pool)
        messages.append((caught.value.code, str(caught.value)))
    assert messages[0] == messages[1] and messages[0][0] == "undecodable-pixel-data"
    assert str(dcmread(paths[3]).SOPInstanceUID) in messages[1][1]  # the first one, whichever thread was quicker


def test_a_process_ends_with_a_decoder_once_and_the_image_is_refused_from_then_on(
    tmp_path: Path, cache: FrameCache, decoders: Decoders, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_frail_decoder(tmp_path / "site", monkeypatch)
    broken = ask_for(paths[2], BREAKS_DOWN)
    loading = subprocess.run([sys.executable, "-c", LOAD, cache.folder, *paths], check=False)
    assert loading.returncode == -signal.SIGSEGV
    for known in ((), known_of(paths)):
        with pytest.raises(
            NotAnalysed, match=rf"{broken}: the decoder of JPEG-LS .* breaks down \(SIGSEGV\)"
        ) as caught:
            load_volume(paths, known, decoders)
        assert caught.value.code == "undecodable-pixel-data"
    np.testing.assert_array_equal(load_volume(paths[3:], decoders=decoders).voxels, VOXELS[3:])


def test_what_breaks_down_at_arrival_is_decoded_alone_by_the_job(
    tmp_path: Path, decoders: Decoders, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_frail_decoder(tmp_path / "site", monkeypatch)
    broken = ask_for(paths[2], BREAKS_DOWN)
    with pytest.raises(BrokenProcessPool):
        decoders.submit_file(paths[2]).result()
    decoders.close()
    assert decoders.submit_file(paths[2]).result() == 0  # not tried again
    with pytest.raises(NotAnalysed, match=broken):
        load_volume(paths, decoders=decoders)


def test_what_comes_to_no_end_is_ended_and_refused(
    tmp_path: Path, cache: FrameCache, paths: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_frail_decoder(tmp_path / "site", monkeypatch)
    endless = ask_for(paths[2], NEVER_ENDS)
    with Decoders(2, cache, longest_seconds=1) as decoders:
        with pytest.raises(BrokenProcessPool):
            decoders.submit_file(paths[2]).result()
        with pytest.raises(NotAnalysed, match=rf"{endless}: the decoder of JPEG-LS .* does not end within 1") as caught:
            load_volume(paths, decoders=decoders)
    assert caught.value.code == "undecodable-pixel-data"


def test_an_image_is_not_blamed_for_a_process_that_was_killed(
    cache: FrameCache, decoders: Decoders, paths: list[Path]
) -> None:
    with cache.claim(paths[2], 0) as claimed:
        assert claimed is not None
        claimed.leave()
    volume = load_volume(paths, known_of(paths), decoders)
    assert is_quick(volume)
    np.testing.assert_array_equal(volume.voxels, VOXELS)
    assert all(has(cache, path, shape=SHAPE[1:]) for path in paths)


@pytest.mark.parametrize("damage", [0, 100], ids=["whole", "damaged"])
def test_an_image_alone_is_what_it_is_among_others(paths: list[Path], damage: int) -> None:
    content = paths[0].read_bytes()
    paths[0].write_bytes(content[: len(content) - damage] + bytes(damage))
    one = only_slice(paths[0])
    if not damage:
        np.testing.assert_array_equal(alone.decode_alone(one, LIMIT_SECONDS), VOXELS[0])
        return
    with pytest.raises(NotAnalysed) as among:
        one.read(np.empty(SHAPE[1:], one.form.dtype))
    with pytest.raises(NotAnalysed) as by_itself:
        alone.decode_alone(one, LIMIT_SECONDS)
    assert (by_itself.value.code, str(by_itself.value)) == (among.value.code, str(among.value))


def test_a_file_that_is_gone_is_tried_again(paths: list[Path]) -> None:
    one = only_slice(paths[0])
    paths[0].unlink()
    with pytest.raises(Transient):
        alone.decode_alone(one, LIMIT_SECONDS)


def test_nothing_but_marks_is_made_where_nothing_may_be_kept(tmp_path: Path, paths: list[Path]) -> None:
    cache = FrameCache(tmp_path / "decoded", 0)
    with Decoders(2, cache) as decoders:
        np.testing.assert_array_equal(load_volume(paths, decoders=decoders).voxels, VOXELS)
    assert entries(cache) == []


def test_what_nobody_else_wants_is_not_kept(cache: FrameCache, decoders: Decoders, paths: list[Path]) -> None:
    with decoders.keeping(False):
        load_volume(paths, decoders=decoders)
    assert entries(cache) == []
    load_volume(paths, decoders=decoders)
    assert len(entries(cache)) == len(paths)


def test_loading_stops_when_it_is_told_to(paths: list[Path], decoders: Decoders) -> None:
    calls = []

    def check() -> None:
        calls.append(None)
        if len(calls) == 3:
            raise LookupError("stop")

    with pytest.raises(LookupError):
        load_volume(paths, decoders=decoders, check=check)
    assert len(calls) <= 4  # the other thread may just have asked


def test_decoding_processes_end_with_a_parent_that_is_killed(tmp_path: Path, paths: list[Path]) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent("""\
        import sys
        from pathlib import Path
        from node.volume import Decoders, FrameCache
        if __name__ == "__main__":
            decoders = Decoders(2, FrameCache(Path(sys.argv[1]), 1 << 24))
            for future in [decoders.submit_file(Path(path)) for path in sys.argv[2:]]:
                assert future.result() == 1
            print("decoded", flush=True)
            sys.stdin.read()
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, script, tmp_path / "decoded", *paths]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None and parent.stdout.readline() == b"decoded\n"
        children = psutil.Process(parent.pid).children(recursive=True)
        assert len(children) >= 2
        parent.kill()
        parent.wait()
        _, alive = psutil.wait_procs(children, timeout=30)
        assert alive == []
