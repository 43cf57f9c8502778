"""Look at the built site in headless Chromium: at phone and desktop width, light and dark.

    python docs/check_site.py [--screenshots DIRECTORY]

Every page is loaded in frames of 390 and 1440 pixels. Its pictures have to load, nothing may be
wider than the page, every code block needs a button that copies it without prompts, and the page
has to follow the theme; the search has to find "relabel". Needs Debian's ``chromium``, and no
network.
"""

import functools
import itertools
import json
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import tyro

SITE = Path(__file__).parent / "_build"
WIDTHS, THEMES = (390, 1440), ("light", "dark")
SHOWN = (
    *("index", "results", "explanation/method", "api/components", "environments/AntDir"),
    *("tutorials/tutorial_1_own_policy", "tutorials/tutorial_2_own_task_family"),
    "tutorials/tutorial_3_model_identification",
    *("tutorials/tutorial_4_read_the_report", "tutorials/tutorial_5_from_stable_baselines3"),
)

SCRIPT = """
<body><script>
const pages = %s, widths = %s, themes = %s;
const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
async function load(url, width) {
  const frame = document.createElement("iframe");
  frame.width = width; frame.height = 900; frame.src = url;
  const loaded = new Promise(done => frame.onload = done);
  document.body.append(frame);
  await loaded; await wait(50);
  return frame;
}
function copy(inside, button, block) {
  // A script may not write to the clipboard: what would go there is the selected text.
  let copied = "";
  inside.execCommand = () => { copied = inside.activeElement.value ?? ""; return true; };
  button.click();
  const prompt = /^(>>> |\\.\\.\\. |\\$ )/, full = text => text.split("\\n").filter(x => x.trim());
  const lines = full(block.innerText), prompted = lines.filter(line => prompt.test(line));
  const wanted = (prompted.length ? prompted : lines).map(line => line.replace(prompt, ""));
  return full(copied).join() == wanted.join() ? [] : [`copies ${copied} instead of ${wanted}`];
}
async function check(page, width, theme) {
  const frame = await load("/" + page, width), inside = frame.contentDocument, faults = [];
  for (const image of inside.images) {
    image.loading = "eager";
    try { await image.decode(); } catch { faults.push("picture does not load: " + image.src); }
  }
  for (const box of inside.querySelectorAll("html, .main, .content")) {
    const excess = box.scrollWidth - box.clientWidth;
    if (excess > 1) faults.push(`${excess} pixels too wide for ${box.tagName}.${box.className}`);
  }
  for (const block of inside.querySelectorAll("div.highlight pre")) {
    const button = block.parentElement.querySelector("button.copybtn");
    if (!button) faults.push("no copy button");
    else if (theme == "light" && width == widths[0]) faults.push(...copy(inside, button, block));
  }
  const [red] = getComputedStyle(inside.body).backgroundColor.match(/\\d+/g).map(Number);
  if ((theme == "dark") != (red < 128)) faults.push("background does not follow the theme");
  frame.remove();
  return faults.map(fault => `${page} at ${width} px, ${theme}: ${fault}`);
}
async function main() {
  let faults = [], checked = 0;
  for (const theme of themes) {
    localStorage.setItem("theme", theme);
    for (const width of widths) for (const page of pages) {
      faults = faults.concat(await check(page, width, theme));
      checked += 1;
    }
  }
  const search = await load("/search.html?q=relabel", 1440);
  const results = () => search.contentDocument.querySelectorAll("ul.search li").length;
  for (let tries = 0; tries < 100 && results() < 5; tries++) await wait(100);
  const found = results();
  if (found < 5) faults.push(`search finds "relabel" ${found} times`);
  fetch("/report", {method: "POST", body: JSON.stringify({checked, found, faults})});
}
main();
</script></body>
"""

FRAME = """
<body style="margin: 0"><script>localStorage.setItem("theme", "{theme}")</script>
<iframe src="/{page}" width="{width}" height="{height}" style="border: 0"></iframe></body>
"""


@dataclass
class Args:
    """Check the built site in headless Chromium."""

    screenshots: Path | None = None
    """Directory that gets screenshots of some pages; none if not given."""


class Handler(SimpleHTTPRequestHandler):
    """Serves the site, and takes what the checking page reports."""

    reports: "queue.Queue[bytes]" = queue.Queue()

    def do_POST(self) -> None:
        """Take a report."""
        self.reports.put(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Keep still."""


def chromium(folder: Path, *arguments: str) -> list[str]:
    """The command that runs headless Chromium with a profile of its own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        sys.exit("check_site needs chromium: apt install chromium")
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars")
    return [program, *options, f"--user-data-dir={folder / 'profile'}", *arguments]


def take_screenshots(folder: Path, address: str, out: Path) -> None:
    """Pictures of some pages, in frames: a window cannot be as narrow as a phone."""
    out.mkdir(parents=True, exist_ok=True)
    for page, width, theme in itertools.product(SHOWN, WIDTHS, THEMES):
        frame = FRAME.format(page=f"{page}.html", width=width, height=1600, theme=theme)
        (folder / "site" / "_frame.html").write_text(frame)
        path = out.resolve() / f"{page.replace('/', '-')}-{width}-{theme}.png"
        size = f"--window-size={max(width, 500)},1600"
        command = chromium(folder, size, f"--screenshot={path}", f"{address}/_frame.html")
        subprocess.run(command, check=True, capture_output=True, timeout=60)


def main(args: Args) -> None:
    """Serve the site with a page of our own that loads all others, and read its report."""
    pages = [str(page.relative_to(SITE)) for page in sorted(SITE.rglob("*.html"))]
    pages = [page for page in pages if not page.startswith(("_", "search", "genindex"))]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        shutil.copytree(SITE, folder / "site", ignore=shutil.ignore_patterns(".doctrees"))
        script = SCRIPT % tuple(map(json.dumps, (pages, WIDTHS, THEMES)))
        (folder / "site" / "_check.html").write_text(script)
        handler = functools.partial(Handler, directory=str(folder / "site"))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            address = f"http://127.0.0.1:{server.server_port}"
            command = chromium(folder, "--remote-debugging-port=0", f"{address}/_check.html")
            with subprocess.Popen(command, stderr=subprocess.DEVNULL) as browser:
                report = json.loads(Handler.reports.get(timeout=540))
                browser.terminate()
            if args.screenshots:
                take_screenshots(folder, address, args.screenshots)
            server.shutdown()
    print(*report["faults"], sep="\n")
    print(f"{report['checked']} views of {len(pages)} pages; search finds {report['found']} pages")
    sys.exit(bool(report["faults"]))


if __name__ == "__main__":
    main(tyro.cli(Args))
