"""A real headless Chromium, driven through its local driver; tests that want one are skipped, and
say so, where there is none."""

import json
import pathlib
import shutil

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run",
    "disable-background-networking", "disable-component-update", "disable-sync",
    "disable-dev-shm-usage", "window-size=1300,1000",
)  # fmt: skip


def start(profile: pathlib.Path):
    """A browser with a profile of its own; quit it."""
    if not (CHROMIUM and DRIVER):
        pytest.skip(
            "chromium and chromedriver are not installed (Debian: chromium chromium-driver)"
        )
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"user-data-dir={profile}"):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(60)
    return driver


def open_page(driver, page: pathlib.Path) -> None:
    """Opens a page and waits until it says that it is ready."""
    from selenium.webdriver.support.ui import WebDriverWait

    driver.get_log("browser")
    driver.get_log("performance")
    driver.get(page.as_uri())
    ready = "return document.documentElement.dataset.ready === 'true'"
    WebDriverWait(driver, 60).until(lambda driver: driver.execute_script(ready))


def complaints(driver) -> list[dict]:
    """Errors and warnings of the page that was opened."""
    return [line for line in driver.get_log("browser") if line["level"] in ("SEVERE", "WARNING")]


def asked_of_the_network(driver) -> set[str]:
    """The schemes of all requests of the page that was opened, but those of the empty tab that the
    browser begins with."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    asked = {
        event["params"]["request"]["url"].split(":")[0]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    }
    return asked - {"chrome", "chrome-untrusted"}
