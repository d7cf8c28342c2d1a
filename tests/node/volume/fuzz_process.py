"""A process that loads mutated files until one is answered wrongly; says each answer as it comes.

python fuzz_process.py FOLDER MUTATIONS SEED
"""

import faulthandler
import random
import resource
import sys
import time
from pathlib import Path

import psutil

from node.errors import NotAnalysed
from node.receive.header import HeaderError, read_header
from node.volume import KnownInstance, load_image, load_volume

LIMIT_SECONDS = 2
LIMIT_BYTES = 2 << 30
"""Address space beyond that of libraries and their threads; an image that declares 8192 x 8192 pixels takes 128 MB."""
HEADER_BYTES = 1600


def mutate(content: bytes, chance: random.Random) -> bytes:
    """Bytes set at random, mostly in the header; a piece cut out, doubled or lost at the end."""
    mutated = bytearray(content)
    for _ in range(chance.randint(0, 6)):
        end = len(content) if chance.random() < 0.4 else min(HEADER_BYTES, len(content))
        mutated[chance.randrange(128, end)] = chance.choice([0, 0xFF, 0x80, chance.randrange(256)])
    start = chance.randrange(128, len(mutated))
    stop = min(len(mutated), start + chance.randint(1, 64))
    match chance.randrange(6):
        case 0:
            del mutated[start:stop]
        case 1:
            mutated[start:start] = mutated[start:stop]
        case 2:
            del mutated[start:]
    return bytes(mutated)


def answer(paths: list[Path]) -> str:
    """What loading says, by the header walk first."""
    try:
        known = [_known(path) for path in paths]
    except HeaderError:
        known = []
    try:
        load_image(paths[1]).presented()
        volume = load_volume(paths, known)
    except NotAnalysed as error:
        return error.code
    return f"loaded-{volume.voxels.dtype}"


def _known(path: Path) -> KnownInstance:
    header = read_header(path)
    return KnownInstance(
        path=path,
        sop_instance_uid=header.sop_instance_uid,
        series_instance_uid=header.series_instance_uid,
        transfer_syntax_uid=header.transfer_syntax_uid,
        pixel_offset=header.pixel_offset,
        pixel_length=header.pixel_length,
        geometry=header.geometry,
    )


def main() -> None:
    faulthandler.enable()
    paths = sorted(Path(sys.argv[1]).glob("*.dcm"))
    load_volume(paths)  # libraries are loaded before memory is limited
    limit = psutil.Process().memory_info().vms + LIMIT_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    chance = random.Random(sys.argv[3])
    content = paths[1].read_bytes()
    for number in range(int(sys.argv[2])):
        paths[1].write_bytes(mutate(content, chance))
        faulthandler.dump_traceback_later(LIMIT_SECONDS * 10, exit=True)
        started = time.process_time()
        found = answer(paths)
        used = time.process_time() - started
        faulthandler.cancel_dump_traceback_later()
        print("mutation", number, found, flush=True)
        if used > LIMIT_SECONDS:
            sys.exit(f"mutation {number} took {used:.1f} s")


if __name__ == "__main__":
    main()
