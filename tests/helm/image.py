"""Reads helm/Dockerfile and replays its build, since a machine without a container engine can still run its steps.

With enough rights the replay runs in a mount namespace of its own, at the image's own paths, then makes the root
read-only and gives up its privileges, as the pods do. Without, it runs below a directory, as the present user.
`python -m tests.helm.image` replays in full, with every dependency; the tests take these, and what the build requires,
from the present environment.
"""

from __future__ import annotations

import re
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "helm" / "Dockerfile"
HOME = "/opt/stratacache"

CHECKS = r"""
echo "user $(id -u)"
if touch /etc/probe 2>/dev/null; then echo "root writable"; else echo "root read-only"; fi
stratacache --version
python -c 'from stratacache.node import engine; print("compiled" if engine.__file__.endswith(".so") else "plain")'
stratacache controller --help >/dev/null && stratacache drain --help >/dev/null && echo "commands there"
stratacache-healthcheck && echo "healthy too early" || echo "not healthy yet"
stratacache node --port "$STRATACACHE_PORT" >/dev/null & node=$!
tries=0; until stratacache-healthcheck; do tries=$((tries + 1)); [ $tries -lt 100 ] || exit 9; sleep 0.1; done
echo healthy
stratacache put greeting hello --address "strata://127.0.0.1:$STRATACACHE_PORT" >/dev/null
stratacache get greeting --address "strata://127.0.0.1:$STRATACACHE_PORT"
kill $node; wait $node || true
"""


@dataclass
class Stage:
    """One FROM of a Dockerfile: its base and the instructions that follow."""

    base: str
    steps: list[tuple[str, str]] = field(default_factory=list)

    def all(self, instruction: str) -> list[str]:
        """The arguments of every such instruction."""
        return [text for name, text in self.steps if name == instruction]


def stages() -> tuple[dict[str, str], list[Stage]]:
    """The build arguments with their defaults, and the stages."""
    text = re.sub(r"\\\n\s*", " ", DOCKERFILE.read_text())
    arguments: dict[str, str] = {}
    found: list[Stage] = []
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(" ")
        if name == "ARG":
            key, _, value = rest.partition("=")
            arguments[key] = value
        elif name == "FROM":
            found.append(Stage(rest))
        else:
            found[-1].steps.append((name, rest.strip()))
    return arguments, found


def context(folder: Path) -> None:
    """What the build stage copies, and nothing else, as a build context would bring it."""
    for text in stages()[1][0].all("COPY"):
        *sources, target = text.split()
        for source in sources:
            if target.startswith("/"):
                target_path = folder / "absolute" / target.lstrip("/")
                target_path.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, target_path)
            elif (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, folder / target, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
            else:
                shutil.copy(ROOT / source, folder / target)


def build_script(folder: Path, home: str, *, full: bool) -> str:
    """The build stage's RUN and absolute COPY steps, in order, with the image's directory at `home`."""
    arguments, (build, _) = stages()
    lines = ["cd " + shlex.quote(str(folder))]
    for name, text in build.steps:
        if name == "RUN":
            line = text.replace("${RAY_VERSION}", arguments["RAY_VERSION"])
            line = re.sub(r"^python ", f"{shlex.quote(base_python())} ", line)
            lines.append(line.replace(HOME, home))
            if "-m venv" in line and not full:
                paths = "\n".join(dict.fromkeys([*site.getsitepackages(), *extra_paths()]))
                library = f"{home}/lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
                lines.append(f"printf '%s\\n' {shlex.quote(paths)} > {library}/present.pth")
                lines.append(f"rm -rf {library}/setuptools {library}/pkg_resources")  # may be too old to build with
        elif name == "COPY" and text.split()[-1].startswith("/"):
            target = text.split()[-1]
            lines.append(
                f"cp {shlex.quote(str(folder / 'absolute' / target.lstrip('/')))} {target.replace(HOME, home)}"
            )
    lines.append(f"sed -i '1s|{HOME}|{home}|' {home}/bin/stratacache-healthcheck")
    return "\n".join(lines)


def base_python() -> str:
    """The interpreter below any virtual environment."""
    return str(Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}")


def extra_paths() -> list[str]:
    """Where else the present environment finds packages, but for the sources of this repository."""
    return [path for path in sys.path if path.endswith("site-packages") and path not in site.getsitepackages()]


def may_isolate() -> bool:
    """Whether this machine lets us have a mount namespace with a read-only root."""
    probe = "mount -t tmpfs tmpfs /opt && mount --bind /tmp /tmp && mount -o remount,bind,ro /"
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-ec", probe]
    tools = all(shutil.which(tool) for tool in ("unshare", "setpriv", "mount"))
    return tools and subprocess.run(command, capture_output=True, check=False).returncode == 0


def replay(ports: tuple[int, int], *, full: bool, isolated: bool) -> str:
    """Build, then run the entry points; returns what they said. CalledProcessError carries what went wrong."""
    with tempfile.TemporaryDirectory(prefix="image") as name:
        folder = Path(name)
        context(folder)
        home = HOME if isolated else str(folder / "home")
        environment = f"PATH={home}/bin:/usr/local/bin:/usr/bin:/bin HOME=/tmp PYTHONDONTWRITEBYTECODE=1"
        environment += f" STRATACACHE_PORT={ports[0]} STRATACACHE_HTTP_PORT={ports[1]}"
        run = f"env -i {environment} sh -ec {shlex.quote(CHECKS)}"
        pip = (
            "export PIP_NO_DEPS=1 PIP_NO_BUILD_ISOLATION=false PIP_NO_COMPILE=1 PIP_QUIET=1 STRATACACHE_COMPILE=0"
            if not full
            else "export PIP_QUIET=1"
        )
        lines = [pip, build_script(folder, home, full=full)]
        if isolated:
            lines = ["mount -t tmpfs -o mode=755 tmpfs /opt", *lines, *open_base(), "mount --bind /tmp /tmp"]
            run = f"cd /tmp; exec setpriv --reuid 1000 --regid 1000 --clear-groups --no-new-privs {run}"
            lines += ["mount -o remount,bind,ro /opt", "mount -o remount,bind,ro /"]
        script = "\n".join([*lines, run])
        command = ["sh", "-ec", script]
        if isolated:
            command = ["unshare", "--mount", "--propagation", "private", *command]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        if done.returncode:
            raise RuntimeError(f"the replay ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
        return done.stdout


def open_base() -> list[str]:
    """Let another user reach the interpreter where it lies in root's home, which only root may enter."""
    base, home = sys.base_prefix, Path("~root").expanduser()
    if home not in Path(base).parents:
        return []
    return [
        f"mkdir /opt/base && mount --bind {base} /opt/base",
        f"mount -t tmpfs -o mode=755 tmpfs {home}",
        f"mkdir -p {base} && mount --bind /opt/base {base}",
    ]


if __name__ == "__main__":
    from tests.standalone.kubelet import free_port

    said = replay((free_port(), free_port()), full=True, isolated=may_isolate())
    print(said)
    if "compiled" not in said.splitlines() and shutil.which("cc"):
        sys.exit("the image's node is not compiled, though there is a C compiler")
