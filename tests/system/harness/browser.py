"""A headless Chromium, and what tests of the status page want of it."""

import base64
import json
import shutil
import tempfile
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from harness.waiting import wait_until

OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
)


class Browser:
    """One Chromium with an empty profile, closed and removed at the end.

    `scheme` is light or dark; `size` is (width, height) of the page in CSS pixels.
    """

    def __init__(self, scheme="light", size=(1280, 900)):
        self._profile = Path(tempfile.mkdtemp(prefix="forebay-browser-"))
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for option in (*OPTIONS, f"--user-data-dir={self._profile}"):
            options.add_argument(option)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
        self.driver.set_script_timeout(20)
        self._messages, self._urls = [], []
        self.looks_like(scheme, size)

    def close(self):
        """Ends Chromium and forgets its profile."""
        self.driver.quit()
        shutil.rmtree(self._profile, ignore_errors=True)

    def looks_like(self, scheme="light", size=(1280, 900)):
        """Light or dark, and how large."""
        media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def open(self, port, path="/", host="127.0.0.1"):
        """Opens the page of an instance."""
        self.driver.get(f"http://{host}:{port}{path}")

    def run(self, script, *arguments):
        """Runs JavaScript and returns what it returns."""
        return self.driver.execute_script(script, *arguments)

    # -- what is there --------------------------------------------------------------------------------------------

    def text(self, selector="body"):
        """All that can be read in an element."""
        read = "const found = document.querySelector(arguments[0]); return found?.checkVisibility() ? found.innerText : ''"
        return self.run(read, selector)

    def wait_text(self, text, selector="body", timeout=20):
        """Waits until an element shows a text."""
        def there():
            if text in self.text(selector):
                return True
            raise LookupError(f"{selector} shows {self.text(selector)!r}")
        wait_until(there, timeout, f"the page to show {text!r}")

    def rows(self, caption):
        """Rows of the table whose caption begins so: dicts by the titles of the columns."""
        return self.run("""
            const table = [...document.querySelectorAll("table")].find((t) => t.caption?.textContent.startsWith(arguments[0]));
            if (!table) return [];
            const titles = [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim());
            return [...table.tBodies[0].rows].map((row) =>
              Object.fromEntries([...row.cells].map((cell, n) => [titles[n], cell.textContent.trim()])));
            """, caption)

    def nodes(self, service="main"):
        """{node: (role, state)} as the page shows them, without symbols."""
        return {row["Node"].split()[0]: (row["Role"].split(" ", 1)[-1], row["State"].split(" ", 1)[-1])
                for row in self.rows(f"Nodes of {service}")}

    # -- what is done ---------------------------------------------------------------------------------------------

    def button(self, name, scope="body"):
        """The button that can be seen and whose accessible name is this, without dots."""
        for found in self.driver.find_elements(By.CSS_SELECTOR, f"{scope} button, {scope} summary"):
            if found.is_displayed() and found.accessible_name.replace("…", "") == name:
                return found
        raise LookupError(f"no button {name!r}")

    def press(self, name, scope="body"):
        """Clicks a button."""
        wait_until(lambda: self.button(name, scope), 10, f"a button {name}")
        button = self.button(name, scope)
        self.run("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", button)
        button.click()

    def keys(self, *keys):
        """Presses keys, wherever the focus is."""
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def focused(self):
        """The accessible name of what has the focus."""
        return self.driver.switch_to.active_element.accessible_name

    def tab_to(self, name, most=200):
        """Presses Tab until a button has the focus."""
        for _ in range(most):
            self.keys(Keys.TAB)
            if self.focused().replace("…", "") == name:
                return
        raise AssertionError(f"Tab does not lead to {name!r}")

    def log_in(self, user, password=None):
        """Fills the login form and sends it."""
        self.press("Log in", "header")
        for field, value in (("user", user), ("password", user if password is None else password)):
            found = self.driver.find_element(By.ID, field)
            found.clear()
            found.send_keys(value)
        self.press("Log in", "#login")

    # -- what it did ----------------------------------------------------------------------------------------------

    def _read_logs(self):
        self._messages += self.driver.get_log("browser")
        for entry in self.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            # The browser begins with a page of its own.
            if message["method"] == "Network.requestWillBeSent" and message["params"]["documentURL"].startswith("http"):
                self._urls.append(message["params"]["request"]["url"])

    def forget(self):
        """Begins anew with what it did."""
        self._read_logs()
        self._messages.clear()
        self._urls.clear()

    def console(self):
        """Warnings and errors of the browser's console."""
        self._read_logs()
        return [entry["message"] for entry in self._messages if entry["level"] in ("WARNING", "SEVERE")]

    def requested(self):
        """URLs of all requests of pages that came over HTTP."""
        self._read_logs()
        return self._urls

    def screenshot(self, file):
        """The whole page, as a PNG."""
        size = self.run("return [document.documentElement.clientWidth, document.documentElement.scrollHeight]")
        clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
        taken = self.driver.execute_cdp_cmd("Page.captureScreenshot", {"captureBeyondViewport": True, "clip": clip})
        Path(file).write_bytes(base64.b64decode(taken["data"]))
