"""An archive of a bundle, and if wanted of all that a machine with nothing but Python needs to run it.

It is a tar file that is whole or not there, with the same bytes for the same contents.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import shlex
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from hsengines.errors import HSError
from hsengines.files import bytes_text, flush, workplace
from hsengines.traits import traits_of
from hsexport.deploy.archive.pins import Target, pins_of
from hsexport.deploy.archive.wheels import fetch_wheels, own_wheel, requirements_of
from hsexport.progress import Reporter, bytes_told
from hsruntime.bundle.reader import MANIFEST_NAME, Bundle, open_bundle, sha256_of

SUMS = "SHA256SUMS"
SUFFIXES = (".tar", ".tar.gz")
_MTIME = 315532800  # 1980, where zip's time begins; GNU tar warns of 1970
_CHUNK_BYTES = 1 << 20
_GZIP_LEVEL = 1  # the demo's float32 weights: 62 MB to 39 in 1.4 s at level 1, to 36 in 11 s at level 6


@dataclass(frozen=True)
class Member:
    """A file of the archive; `sha256` is what its bytes must still be when they are read."""

    path: str
    source: Path | bytes
    size_bytes: int
    sha256: str

    @classmethod
    def of_bytes(cls, path: str, data: bytes) -> Member:
        """A file that lies nowhere."""
        return cls(path, data, len(data), hashlib.sha256(data).hexdigest())


def checked_name(out: Path) -> str:
    """What the archive's one folder is called: its own name, bare. Raises HSError for a name that is no archive's."""
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if out.name.endswith(suffix) and out.name != suffix:
            return out.name.removesuffix(suffix)
    raise HSError(f"'{out}' does not end in {' or '.join(SUFFIXES)}", "name the archive so")


def check_room(folder: Path, members: Sequence[Member]) -> None:
    """Raises HSError if the archive does not fit on `folder`'s disk, uncompressed."""
    needed_bytes = sum(member.size_bytes + 3 * tarfile.BLOCKSIZE for member in members) + 2 * tarfile.RECORDSIZE
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise HSError(
            f"the archive needs {bytes_text(needed_bytes)}, '{folder}' has {bytes_text(free_bytes)} free",
            f"free {bytes_text(needed_bytes - free_bytes)} there, or write it elsewhere",
        )


def write_archive(out: Path, place: Path, members: Sequence[Member], reporter: Reporter) -> None:
    """Writes `members`, sorted, and their checksums in one folder to `out`, through the folder `place` on its disk.

    Every file is read once, in pieces. Raises HSError for one whose bytes are not what its Member says.
    """
    members = sorted(members, key=lambda member: member.path)
    sums = "".join(f"{member.sha256}  {member.path}\n" for member in members)  # as `sha256sum --check` reads it
    members = [Member.of_bytes(SUMS, sums.encode()), *members]
    check_room(place, members)
    reporter.stage("pack", len(members))
    partial, top = place / "archive", checked_name(out)
    with ExitStack() as stack:
        stream: IO[bytes] = stack.enter_context(partial.open("xb"))
        if out.name.endswith(".gz"):
            squeezed = stack.enter_context(gzip.GzipFile("", "wb", _GZIP_LEVEL, stream, mtime=0))
            stream = cast(IO[bytes], squeezed)
        tar = stack.enter_context(tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT))
        tar.copybufsize = _CHUNK_BYTES  # type: ignore[attr-defined]
        for member in members:
            reporter.begin(member.path)
            _add(tar, top, member, reporter)
            reporter.end(member.path)
    flush(partial)
    partial.replace(out)


def _add(tar: tarfile.TarFile, top: str, member: Member, reporter: Reporter) -> None:
    info = tarfile.TarInfo(f"{top}/{member.path}")
    info.size, info.mtime, info.mode = member.size_bytes, _MTIME, 0o644
    with io.BytesIO(member.source) if isinstance(member.source, bytes) else member.source.open("rb") as stream:
        checked = _Checked(stream, member, reporter)
        tar.addfile(info, checked)  # type: ignore[arg-type]  # of a file it wants `read` alone
    checked.check_whole()


class _Checked:
    """A file that is hashed while it is read."""

    def __init__(self, stream: IO[bytes], member: Member, reporter: Reporter) -> None:
        self._stream, self._member, self._seen_bytes = stream, member, 0
        self._digest = hashlib.sha256()
        self._tell = bytes_told(reporter, member.path, "packed")

    def read(self, count: int) -> bytes:
        """The next bytes; a file that has become shorter is an error."""
        data = self._stream.read(count)
        if len(data) < count:
            raise self._changed(f"ended after {self._seen_bytes + len(data)} bytes")
        self._digest.update(data)
        self._seen_bytes += len(data)
        self._tell(self._seen_bytes, self._member.size_bytes)
        return data

    def check_whole(self) -> None:
        """Raises HSError if the bytes were others than promised."""
        if self._digest.hexdigest() != self._member.sha256:
            raise self._changed(f"has sha256 {self._digest.hexdigest()}")

    def _changed(self, found: str) -> HSError:
        member = self._member
        return HSError(
            f"file '{member.path}' {found}, expected {member.size_bytes} bytes of sha256 {member.sha256}",
            "it is damaged, or was changed meanwhile; copy it again or build it again",
        )


@dataclass(frozen=True)
class RuntimeOptions:
    """The runtime beside the bundle. wheels: those of other packages, too, so that no network is needed there."""

    target: Target = field(default_factory=Target)
    wheels: bool = True
    versions: Mapping[str, str] = field(default_factory=dict)
    """Exact ones by name that go before those installed here; see `pins_of`."""


@dataclass(frozen=True)
class Archive:
    """A written archive."""

    archive: Path
    size_bytes: int
    requirements: tuple[str, ...]
    wheels: tuple[str, ...]


def archive_bundle(path: Path, out: Path, runtime: RuntimeOptions | None, reporter: Reporter) -> Archive:
    """Writes the archive `out` of the bundle at `path`, whole or not at all; a file there is replaced.

    The bundle's bytes are checked while they are copied. Raises BundleError, or HSError for what cannot be packed.
    """
    bundle = open_bundle(path, hashes=False)
    _check_out(out, bundle)
    with workplace(out.parent, out.name) as place:
        pins, wheels = _runtime(bundle, runtime, place, reporter) if runtime else ([], [])
        members = [*_bundle_members(bundle), *(_runtime_members(out, pins, wheels, runtime) if runtime else ())]
        write_archive(out, place, members, reporter)
    return Archive(out, out.stat().st_size, tuple(pins), tuple(wheel.name for wheel in wheels))


def _check_out(out: Path, bundle: Bundle) -> None:
    checked_name(out)
    if not out.parent.is_dir():
        raise HSError(f"{out.parent} is not a directory", "make it first, or write elsewhere")
    if out.is_dir():
        raise HSError(f"{out} is a directory", "name a file in it")
    if out.resolve().is_relative_to(bundle.path.resolve()):
        raise HSError(f"{out} lies inside the bundle, which holds its own files only", "write it elsewhere")


def _bundle_members(bundle: Bundle) -> list[Member]:
    # A folder of its own: a bundle with one file more is refused when it is opened.
    listed = [Member(f"bundle/{f.path}", bundle.path / f.path, f.size_bytes, f.sha256) for f in bundle.manifest.files]
    return [*listed, Member.of_bytes(f"bundle/{MANIFEST_NAME}", (bundle.path / MANIFEST_NAME).read_bytes())]


def _runtime(bundle: Bundle, runtime: RuntimeOptions, place: Path, reporter: Reporter) -> tuple[list[str], list[Path]]:
    """Pins, and wheels with our own first."""
    extra = traits_of(bundle.manifest.backend).extra
    if not extra:
        raise HSError(f"the bundle's backend '{bundle.manifest.backend}' has no runtime to pack", "leave --runtime out")
    ours = own_wheel(place)
    if not runtime.target.is_here and not ours.stem.endswith("-any"):
        raise HSError(f"the hsexport installed here is for this platform alone ({ours.name})", "pack from a checkout")
    pins = pins_of(requirements_of(ours), extra, runtime.target, runtime.versions)
    return pins, [ours, *(fetch_wheels(pins, runtime.target, place, reporter) if runtime.wheels else ())]


def _runtime_members(out: Path, pins: list[str], wheels: list[Path], runtime: RuntimeOptions) -> list[Member]:
    steps = install_steps(out, wheels[0].name, runtime)
    return [
        Member.of_bytes("requirements.txt", "".join(f"{pin}\n" for pin in pins).encode()),
        Member.of_bytes("INSTALL", "".join(f"{step}\n" for step in steps).encode()),
        *(Member(f"wheels/{w.name}", w, w.stat().st_size, sha256_of(w)) for w in wheels),
    ]


def install_steps(out: Path, wheel: str, runtime: RuntimeOptions) -> list[str]:
    """Five lines for the machine that the archive is copied to."""
    target, offline = runtime.target, "--no-index " if runtime.wheels else ""
    install = f"-m pip install {offline}--find-links wheels wheels/{wheel} -r requirements.txt"
    run = 'run bundle --prompt "red apple" --out picture.png'
    if target.is_windows:
        return [
            f'tar -xf "{out.name}" && cd "{checked_name(out)}"',
            "rem certutil -hashfile FILE SHA256 tells what SHA256SUMS says of each file",
            f"py -{target.python_version} -m venv env",
            f"env\\Scripts\\python {install}",
            f"env\\Scripts\\hsexport {run}",
        ]
    return [
        f"tar -xf {shlex.quote(out.name)} && cd {shlex.quote(checked_name(out))}",
        "sha256sum --check --quiet SHA256SUMS",
        f"python{target.python_version} -m venv env",
        f"env/bin/python {install}",
        f"env/bin/hsexport {run}",
    ]
