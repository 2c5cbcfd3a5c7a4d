"""How fast the page of all answers is in Chromium: size, building, loading, and from a key or a choice to the drawn list.

    python tests/bench/bench_browser.py [questions]      # 5,000 by default, five systems each; needs chromium and the package playwright
"""

import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from cancerllm_utils.report import browser
from tests import invented_answers

# From the event to the second frame after it: what was changed is then on the screen.
TYPED = """async ([name, value]) => {
  const field = document.forms.filters.elements[name], started = performance.now();
  field.value = value;
  field.dispatchEvent(new Event("input", { bubbles: true }));
  const worked = performance.now() - started;
  await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  return [worked, performance.now() - started];
}"""
CHANGES = [("search", "s"), ("search", "sp"), ("search", "specimen 1"), ("search", "grade g2"), ("search", ""), ("result", "wrong"), ("system", "0"), ("field", "1"), ("field", ""), ("result", "any")]


def main(questions: int) -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        run = invented_answers.write_answers(Path(folder) / "quick", n=questions)
        started = time.perf_counter()
        path = browser.build_browser(run)
        print(f"{questions:,} questions x {len(invented_answers.SYSTEMS)} systems: {path.stat().st_size / 1e6:.1f} MB, built in {time.perf_counter() - started:.1f} s")
        chromium = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page(viewport={"width": 1280, "height": 900})
        started = time.perf_counter()
        page.goto(path.as_uri())
        page.wait_for_selector("#rows tr")
        print(f"loaded in {time.perf_counter() - started:.2f} s")
        times = [page.evaluate(TYPED, change) for _ in range(5) for change in CHANGES]
        for i, name in enumerate(["script, per change", "until it is drawn"]):
            values = [measured[i] for measured in times]
            print(f"{name}: median {statistics.median(values):.0f} ms, slowest {max(values):.0f} ms, n = {len(values)}")
        chromium.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000)
