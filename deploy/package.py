#!/usr/bin/env python3
"""Packages a built `hone`: Debian package, archive for other distributions, bill of materials, checksums.

usage: package.py BINARY ARCH OUT    ARCH: arm64, amd64 or armhf

What goes where is read from [package.metadata.deb] of agent/Cargo.toml, so that `cargo deb` makes the same package. Needs
python3 (3.11), cargo and dpkg-deb; the bill is CycloneDX 1.5 over the crates that are linked, with the checksums of Cargo.lock.
The same inputs give the same bytes: times are SOURCE_DATE_EPOCH, by default that of the last commit.
"""
import gzip
import hashlib
import io
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import uuid

ROOT = pathlib.Path(__file__).resolve().parent.parent
TARGETS = {"arm64": "aarch64-unknown-linux-gnu", "amd64": "x86_64-unknown-linux-gnu", "armhf": "armv7-unknown-linux-gnueabihf"}
MACHINES = {"arm64": "aarch64", "amd64": "x86_64", "armhf": "armv7l"}


def run(*command):
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def digest(path):
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def described():
    package = tomllib.loads((ROOT / "agent/Cargo.toml").read_text())["package"]
    workspace = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    return package["description"], workspace["version"], package["metadata"]["deb"]


def debian(binary, arch, out, epoch):
    """dpkg-deb over a folder laid out as the assets say."""
    description, version, deb = described()
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        tree.chmod(0o755)
        for source, place, mode in deb["assets"]:
            # By the name in the list, whatever the file is called that was built.
            target = tree / place / pathlib.Path(source).name if place.endswith("/") else tree / place
            source = binary if source == "target/release/hone" else ROOT / "agent" / source
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            target.chmod(int(mode, 8))
        shutil.copyfile(ROOT / "agent" / deb["license-file"][0], tree / "usr/share/doc/hone/copyright")
        control = tree / "DEBIAN"
        control.mkdir()
        files = sorted(path for path in tree.rglob("*") if path.is_file() and control not in path.parents)
        size = sum(path.stat().st_size for path in files)
        longer = "\n".join(" " + (line or ".") for line in deb["extended-description"].strip().splitlines())
        (control / "control").write_text(
            f"Package: {deb['name']}\nVersion: {version}-1\nArchitecture: {arch}\nMaintainer: {deb['maintainer']}\n"
            f"Section: {deb['section']}\nPriority: {deb['priority']}\nInstalled-Size: {-(-size // 1024)}\n"
            f"Depends: {deb['depends']}\nDescription: {description}\n{longer}\n"
        )
        (control / "conffiles").write_text("".join(f"{name}\n" for name in deb["conf-files"]))
        sums = (f"{hashlib.md5(path.read_bytes()).hexdigest()}  {path.relative_to(tree)}\n" for path in files)
        (control / "md5sums").write_text("".join(sums))
        for script in ["postinst", "prerm", "postrm"]:
            shutil.copyfile(ROOT / "agent" / deb["maintainer-scripts"] / script, control / script)
            (control / script).chmod(0o755)
        package = out / f"hone_{version}-1_{arch}.deb"
        environment = dict(os.environ, SOURCE_DATE_EPOCH=str(epoch))
        subprocess.run(["dpkg-deb", "--root-owner-group", "-Zxz", "--build", folder, package], check=True, env=environment,
                       stdout=subprocess.DEVNULL)
    return package


def archive(binary, arch, out, epoch):
    """What deploy/install.sh needs, in one folder."""
    _, version, _ = described()
    name = f"hone-{version}-{MACHINES[arch]}-linux"
    path = out / f"{name}.tar.gz"
    deploy = ["hone.service", "hone-trainer.socket", "hone-trainer@.service", "80-hone.preset", "hone.sysusers.conf", "hone.tmpfiles.conf"]
    files = [(binary, "hone", 0o755), (ROOT / "deploy/install.sh", "install.sh", 0o755),
             (ROOT / "agent/src/config/hone.toml", "hone.toml", 0o644)]
    files += [(ROOT / "deploy" / file, file, 0o644) for file in deploy]
    guides = ["deploy/README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
    files += [(ROOT / file, file, 0o644) for file in ["README.md", "CHANGELOG.md", "LICENSE-MIT", "LICENSE-APACHE", *guides]]
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=epoch) as packed, tarfile.open(fileobj=packed, mode="w") as tar:
        for source, target, mode in files:
            data = pathlib.Path(source).read_bytes()
            entry = tarfile.TarInfo(f"{name}/{target}")
            entry.size, entry.mode, entry.mtime = len(data), mode, epoch
            tar.addfile(entry, io.BytesIO(data))
    return path


def bill(binary, arch, out):
    """CycloneDX over what is linked: the normal dependencies of hone-agent on this target."""
    _, version, _ = described()
    metadata = json.loads(run("cargo", "metadata", "--locked", "--format-version", "1", "--filter-platform", TARGETS[arch]))
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: [dep["pkg"] for dep in node["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
             for node in metadata["resolve"]["nodes"]}
    locked = tomllib.loads((ROOT / "Cargo.lock").read_text())["package"]
    sums = {(package["name"], package["version"]): package.get("checksum") for package in locked}
    agent = next(package["id"] for package in metadata["packages"] if package["name"] == "hone-agent")
    # `cargo metadata` knows the features of the whole workspace; only `cargo tree` knows those of this one program.
    tree = run("cargo", "tree", "--locked", "-p", "hone-agent", "-e", "normal,no-proc-macro", "--target", TARGETS[arch], "--prefix", "none", "-f", "{p}")
    named = {tuple(line.split()[:2]) for line in tree.splitlines() if line.strip()}
    linked = {id for id, package in packages.items() if (package["name"], f"v{package['version']}") in named}
    ref = lambda id: f"pkg:cargo/{packages[id]['name']}@{packages[id]['version']}"
    components = []
    for id in sorted(linked - {agent}, key=ref):
        package = packages[id]
        component = {"type": "library", "bom-ref": ref(id), "name": package["name"], "version": package["version"], "purl": ref(id)}
        if package.get("license"):
            component["licenses"] = [{"expression": package["license"].replace("/", " OR ")}]
        if sum := sums.get((package["name"], package["version"])):
            component["hashes"] = [{"alg": "SHA-256", "content": sum}]
        components.append(component)
    own = digest(binary)
    main = {"type": "application", "bom-ref": ref(agent), "name": "hone", "version": version,
            "hashes": [{"alg": "SHA-256", "content": own}], "licenses": [{"expression": "MIT OR Apache-2.0"}]}
    graph = [{"ref": ref(id), "dependsOn": sorted({ref(below) for below in nodes[id] if below in linked})} for id in sorted(linked, key=ref)]
    path = out / f"hone-{version}-{MACHINES[arch]}.cdx.json"
    path.write_text(json.dumps({"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
                                "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_OID, own)}",
                                "metadata": {"component": main}, "components": components, "dependencies": graph}, indent=1) + "\n")
    return path


def main():
    if len(sys.argv) != 4 or sys.argv[2] not in TARGETS:
        sys.exit(__doc__)
    binary, arch, out = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
    machine = {183: "arm64", 62: "amd64", 40: "armhf"}.get(int.from_bytes(binary.read_bytes()[18:20], "little"))
    if machine != arch:
        sys.exit(f"{binary} is built for {machine or 'something else'}, not for {arch}")
    epoch = int(os.environ.get("SOURCE_DATE_EPOCH") or run("git", "log", "-1", "--format=%ct"))
    out.mkdir(parents=True, exist_ok=True)
    made = [debian(binary, arch, out, epoch), archive(binary, arch, out, epoch), bill(binary, arch, out)]
    listed = sorted(path for pattern in ["*.deb", "*.tar.gz", "*.cdx.json"] for path in out.glob(pattern))
    (out / "SHA256SUMS").write_text("".join(f"{digest(path)}  {path.name}\n" for path in listed))
    for path in made:
        print(f"{path}  {path.stat().st_size} bytes")


main()
