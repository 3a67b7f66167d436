"""Uses an installed wheel as a new user would; run by `wheel_check.sh` away from the checkout."""

import importlib.metadata
import importlib.resources
import json
import subprocess
import sys
from pathlib import Path


def main() -> None:
    import relaxrl

    where = Path(relaxrl.__file__).resolve()
    assert "site-packages" in where.parts, f"imported from {where}, not from the wheel"
    assert importlib.metadata.version("relaxrl") == relaxrl.__version__
    package = importlib.resources.files("relaxrl")
    assert (package / "py.typed").is_file()
    command = [sys.executable, "-m", "relaxrl.cli.main"]
    for arguments in (["--version"], ["agents"], ["structures", "inspect", "metals:dev"]):
        subprocess.run([*command, *arguments], check=True, stdout=subprocess.DEVNULL)

    from ase.build import bulk
    from ase.io import write

    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=0)
    write("start.xyz", atoms)
    arguments = ["--structures", "start.xyz", "--calculator", "emt", "--methods", "BFGS,FIRE", "--out", "out"]
    subprocess.run([*command, "evaluate", "--agent", "none", *arguments], check=True, stdout=subprocess.DEVNULL)
    summary = json.loads(Path("out/summary.json").read_text())
    assert "BFGS" in json.dumps(summary)
    assert "3Dmol" in Path("out/report.html").read_text(encoding="utf-8")  # templates and scripts are in the wheel
    sys.stdout.write(f"wheel {relaxrl.__version__} works away from the checkout\n")


if __name__ == "__main__":
    main()
