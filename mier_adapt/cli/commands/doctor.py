"""``mier-adapt doctor``: what works on this machine."""

from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mier_adapt.cli.arguments import Imports, Threads
from mier_adapt.cli.terminal import console, say


@dataclass
class Doctor:
    """Test the installation, and say what would be slow.

    Example: mier-adapt doctor --out runs
    """

    out: Path | None = None
    """Where runs are to go, to test that disk; the temporary directory if not given."""
    threads: Threads = None
    import_: Imports = ()

    def run(self) -> int:
        """Look, and print; 1 if something that the library needs does not work."""
        from mier_adapt.doctor import examine

        with console.status("loading") as status:
            found = examine(self.out, on_check=lambda name: status.update(f"testing: {name}"))
        table = Table("part", "found", show_header=False, box=None)
        for name, value in (*found.versions.items(), *found.machine.items()):
            table.add_row(name, value)
        console.print(table)
        table = Table("check", "", "result")
        for check in found.checks:
            failed = "failed" if check.required else "not here"
            table.add_row(check.name, "passed" if check.passed else failed, check.result)
        console.print(table)
        for line in found.slow or ("Nothing here would be slow.",):
            say(line)
        return 0 if found.healthy else 1
