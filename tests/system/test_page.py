"""The status page in a headless Chromium. FOREBAY_SCREENSHOTS names a folder that keeps what was seen."""

import os
import time
from pathlib import Path

import psycopg
import pytest
from harness import wait_until
from harness.browser import Browser
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

PHONE = (360, 780)
HOSTILE = "<img src=x onerror=alert(1)>"
FILES = ("/", "/page.css", "/page.js", "/elements.js")
# What Chromium itself writes into its console when an answer is an error, or when there is none.
EXPECTED = ("401 (Unauthorized)", "403 (Forbidden)", "409 (Conflict)", "ERR_CONNECTION_REFUSED")


@pytest.fixture(scope="module")
def _chromium():
    browser = Browser()
    yield browser
    browser.close()


@pytest.fixture
def browser(_chromium):
    """A browser without credentials; at the end nothing may have gone wrong in it, or to another machine."""
    _chromium.looks_like()
    _chromium.forget()
    yield _chromium
    complaints = [line for line in _chromium.console() if not any(known in line for known in EXPECTED)]
    strangers = [url for url in _chromium.requested() if not url.startswith(("http://127.0.0.1:", "data:image/"))]
    _chromium.driver.get("about:blank")
    assert not complaints and not strangers


@pytest.fixture
def keep(tmp_path, request):
    """Takes a screenshot: of the whole page, or with `view` of what can be seen of it."""
    folder = Path(os.environ.get("FOREBAY_SCREENSHOTS", tmp_path))
    folder.mkdir(parents=True, exist_ok=True)

    def take(browser, name, view=False):
        file = folder / f"{request.node.name}-{name}.png"
        browser.driver.save_screenshot(str(file)) if view else browser.screenshot(file)
    return take


@pytest.fixture
def opened(browser, forebay):
    """(browser, forebay) with the page of the shared instance, which may look without a login."""
    browser.open(forebay.admin_port)
    browser.wait_text("main has its primary", "#headline")
    return browser, forebay


# -- the files and the answer -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES)
def test_the_files_are_for_everybody_and_kept_by_who_has_them(forebay, path):
    first = forebay.http(path)
    assert first.status == 200 and first.headers["cache-control"] == "no-cache"
    assert "script-src 'self'" in first.headers["content-security-policy"] and first.headers["x-frame-options"] == "DENY"
    again = forebay.http(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status, again.body) == (304, b"")
    assert forebay.http(path, method="POST").status in (401, 405)
    # A wrong password is not even looked at: nothing is hidden here.
    assert forebay.http(path, user="admin", password="wrong").status == 200
    assert forebay.http(path, headers={"Host": "forebay.example"}).status == 200


def test_the_data_is_for_those_who_may_see_the_views(start_forebay):
    forebay = start_forebay(config={"admin": {"views_from": []}})
    for path in ("/api/v1/overview", "/api/v1/history"):
        assert forebay.http(path).status == 401
        assert forebay.http(path, user="viewer").status == 200


def test_the_overview_has_everything_and_says_who_asks(forebay):
    with forebay.connect(application_name="seen") as connection:
        connection.execute("select 1")
        whole = forebay.http("/api/v1/overview", user="viewer").json
        client = next(row for row in whole["clients"]["rows"] if row["application_name"] == "seen")
    assert client["user"] == "app" and whole["caller"] == {"name": "viewer", "role": "viewer"}
    assert whole["services"][0]["service"] == "main" and whole["services"][0]["without_primary_ms"] is None
    assert {row["node"] for row in whole["nodes"]} == {"pg1", "pg2", "pg3"} and "history" not in whole
    assert whole["instance"]["state"] == "ready" and whole["events"]["rows"][-1]["event"]


def test_the_history_is_there_before_anybody_looks(forebay):
    def busy():
        with forebay.connect() as connection:
            for _ in range(20):
                connection.execute("select 1")
        past = forebay.http("/api/v1/history").json
        pool = next((pool for pool in past["pools"] if pool["user"] == "app"), None)
        return pool and max((rate for rate in pool["series"]["queries"] if rate is not None), default=0) > 1 and past
    past = wait_until(busy, 20, "the queries to be in the history")
    assert all(len(values) == len(past["times"]) for pool in past["pools"] for values in pool["series"].values())
    assert {node["node"] for node in past["nodes"]} == {"pg1", "pg2", "pg3"}
    newer = forebay.http(f"/api/v1/history?since={past['times'][-1]}").json
    assert all(time > past["times"][-1] for time in newer["times"])
    assert forebay.http("/api/v1/history?span=24h").json["period_ms"] == 60_000
    for wrong in ("/api/v1/history?span=1y", "/api/v1/history?since=x", "/api/v1/overview?since=-1"):
        assert forebay.http(wrong).status == 400


# -- what is seen -----------------------------------------------------------------------------------------------------


def shows(browser, forebay):
    """The page shows the nodes as SHOW NODES does."""
    rows = forebay.admin("SHOW NODES")
    return browser.nodes() == {row["node"]: (row["role"], row["state"]) for row in rows}


def test_the_nodes_are_shown_with_their_roles(browser, forebay, keep):
    browser.open(forebay.admin_port)
    browser.wait_text("main has its primary, and all 3 nodes are up", "#headline")
    with forebay.connect(application_name="psql") as connection:
        connection.execute("select 1")
        wait_until(lambda: shows(browser, forebay), 15, "the nodes to be shown")
        browser.wait_text("psql", "#clients")
        browser.wait_text("bench / app", "#pools")
        for scheme, size, name in (("light", (1280, 900), "light"), ("dark", (1280, 900), "dark"), ("light", PHONE, "phone")):
            browser.looks_like(scheme, size)
            keep(browser, name)


def test_a_plot_says_in_words_what_it_shows(browser, forebay):
    with forebay.connect() as connection:
        browser.open(forebay.admin_port)

        def told():
            connection.execute("select 1")
            labels = browser.run("return [...document.querySelectorAll('#pools svg')].map((svg) => svg.ariaLabel)")
            return any("Queries/s of bench / app, last 10 minutes: now" in label and "highest" in label for label in labels)
        wait_until(told, 20, "a plot with words")
    browser.driver.find_element(By.ID, "span").send_keys("the last 24 hours")
    wait_until(lambda: browser.run("return document.querySelector('#pools svg').ariaLabel.includes('last 24 hours')"),
               10, "the other plots")


def test_a_failover_appears_without_reloading(browser, cluster, start_forebay, keep):
    forebay = start_forebay(cluster, failover={"mode": "promote"})
    forebay.wait_measured()
    browser.open(forebay.admin_port)
    wait_until(lambda: shows(browser, forebay), 15, "the nodes to be shown")
    browser.run("window.isStillHere = true; window.heard = [];"
                "new MutationObserver(() => heard.push(document.querySelector('#announcer').textContent))"
                ".observe(document.querySelector('#announcer'), {childList: true});")
    cluster.primary.kill()
    wait_until(lambda: browser.nodes().get("pg1", ("", ""))[1] == "down", 20, "the loss to be shown")
    wait_until(lambda: sorted(role for role, state in browser.nodes().values() if state == "up") == ["primary", "replica"],
               20, "the new primary to be shown")
    browser.wait_text("main.pg1 is down.", "#remarks")
    browser.wait_text("failover done", "#events")
    assert browser.run("return window.isStillHere")
    assert any("is the primary" in text for text in browser.run("return heard")), "a screen reader is told"
    keep(browser, "after")


def test_no_primary_is_said_first_and_since_when(browser, new_cluster, start_forebay, keep):
    cluster = new_cluster(replicas=1)
    forebay = start_forebay(cluster, failover={"hold": "10s"})
    browser.open(forebay.admin_port)
    browser.wait_text("main has its primary", "#headline")
    cluster.primary.kill()
    browser.wait_text("main has no primary for", "#headline", 20)
    assert "clients wait, 10 s at the longest" in browser.text("#headline")
    browser.wait_text("who has waited 10 s got an error, and new requests wait as long before they get one", "#headline", 30)
    assert browser.run("return document.querySelector('#verdict').dataset.tone") == "bad"
    keep(browser, "seen", view=True)
    assert forebay.http("/api/v1/overview").json["services"][0]["without_primary_ms"] > 0


def test_hostile_names_are_shown_as_text(browser, forebay, keep):
    with forebay.connect(application_name=HOSTILE) as connection:
        connection.execute("select 1")
        browser.open(forebay.admin_port)
        browser.wait_text(HOSTILE, "#clients-table")
        assert browser.run("return document.querySelectorAll('img').length") == 0
        keep(browser, "seen")


def test_hostile_names_of_users_and_databases_are_shown_and_quoted(browser, start_forebay, keep):
    name = f"{HOSTILE}\"'; SHUTDOWN --"
    forebay = start_forebay(
        user=[{"name": "app", "password": "app"}, {"name": name, "password": "x"}],
        database=[{"name": name, "dbname": "bench", "user": "app"}, {"name": "*"}])
    login = {"host": "127.0.0.1", "port": forebay.port, "user": name, "dbname": name, "password": "x"}
    with psycopg.connect(**login, application_name=HOSTILE) as connection:
        connection.execute("select 1")
        connection.commit()
        browser.open(forebay.admin_port)
        browser.wait_text(f"{name} / {name}", "#pools")
        browser.log_in("admin")
        browser.wait_text("admin (admin)", "#account")
        browser.press(f"Pause database {name}")
        assert 'PAUSE "<img src=x onerror=alert(1)>""\'; SHUTDOWN --"' in browser.text("#order-sql")
        keep(browser, "asked", view=True)
        browser.press("Pause", "#order")
        browser.wait_text("PAUSE", "#order-answer")
        wait_until(lambda: forebay.http("/api/v1/overview").json["instance"]["paused"] == [name], 10, "the pause")
        browser.press("Close", "#order")
        browser.wait_text(f"1 database paused: {name}.", "#remarks")
        browser.press(f"Resume database {name}")
        browser.press("Resume", "#order")
        browser.wait_text("RESUME", "#order-answer")
        browser.press("Close", "#order")
        browser.wait_text(f"PAUSE of database {name}, by admin", "#events")
        keep(browser, "seen")
    assert browser.run("return document.querySelectorAll('img').length") == 0 and forebay.is_running()


# -- what an admin does -----------------------------------------------------------------------------------------------


def test_the_switchover_button_moves_the_primary(browser, cluster, start_forebay, keep):
    forebay = start_forebay(cluster, failover={"mode": "promote"})
    forebay.wait_measured()
    browser.open(forebay.admin_port)
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    browser.press("Make primary main.pg3")
    browser.wait_text("DRY RUN: a switchover of main to", "#order-promise")
    effects = browser.text("#order-effects")
    assert "Writes move from pg1 to pg3." in effects and "have 5 s to end" in effects and "pg_rewind" in effects
    assert browser.focused() == "Cancel"
    keep(browser, "asked", view=True)
    assert forebay.node("pg1")["role"] == "primary", "nothing has happened yet"
    browser.press("Switch over", "#order")
    browser.wait_text("pg3 is the primary now", "#order-answer", 30)
    keep(browser, "done", view=True)
    browser.press("Close", "#order")
    wait_until(lambda: browser.nodes().get("pg3") == ("primary", "up"), 10, "the new primary to be shown")
    begun = [row for row in forebay.admin("SHOW EVENTS") if row["event"] == "switchover_begun"]
    assert len(begun) == 1 and "admin" in begun[0]["detail"]


def test_what_is_refused_is_told_as_it_is(opened):
    browser, forebay = opened
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    browser.press("Pause failover main")
    browser.press("Pause failover", "#order")
    browser.wait_text("failover is paused: main", "#order-answer")
    browser.keys(Keys.ESCAPE)
    browser.wait_text("Failover of main is paused by admin.", "#remarks")
    browser.press("Resume failover main")
    forebay.admin("RESUME FAILOVER main")
    browser.press("Resume failover", "#order")
    browser.wait_text("failover of main is not paused", "#order-answer")
    browser.press("Close", "#order")


def test_all_databases_are_paused_and_resumed(opened):
    browser, forebay = opened
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    for word, state in (("Pause", "paused"), ("Resume", "ready")):
        browser.press(f"{word} all")
        browser.press(word, "#order")
        browser.wait_text(word.upper(), "#order-answer")
        browser.press("Close", "#order")
        wait_until(lambda: forebay.http("/api/v1/overview").json["instance"]["state"] == state, 10, f"it to be {state}")
        browser.wait_text(f", {state},", "#instance")


def test_a_pause_that_is_called_off_is_taken_back(opened):
    browser, forebay = opened
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    with forebay.connect() as connection:
        connection.execute("begin")
        connection.execute("select 1")
        browser.press("Pause all")
        browser.press("Pause", "#order")
        browser.wait_text("Under way", "#order-answer")
        wait_until(lambda: forebay.http("/api/v1/overview").json["instance"]["state"] == "paused", 10, "the pause")
        browser.press("Stop waiting", "#order")
        wait_until(lambda: forebay.http("/api/v1/overview").json["instance"]["state"] == "ready", 10, "the end of it")
        connection.rollback()


def test_a_viewer_and_a_stranger_may_not(opened, keep):
    browser, forebay = opened
    why = "Log in as an admin to give commands."
    for user in ("", "viewer"):
        if user:
            browser.log_in(user)
            browser.wait_text("viewer (viewer)", "#account")
            why = "viewer is a viewer: commands need an [[admin.user]] with the role admin."
        wait_until(lambda: browser.button("Detach main.pg3").get_attribute("title") == why, 10, "the reason")
        assert browser.button("Detach main.pg3").get_attribute("aria-disabled") == "true"
        browser.press("Detach main.pg3")
        assert why in browser.text("#order") and not browser.driver.find_element(By.ID, "order-go").is_displayed()
        keep(browser, user or "stranger", view=True)
        browser.keys(Keys.ESCAPE)
    assert forebay.node("pg3")["state"] == "up"
    assert forebay.http("/api/v1/admin", {"sql": "DETACH NODE pg3"}, user="viewer").status == 403


def test_a_wrong_password_is_told_and_not_tried_again(browser, start_forebay):
    forebay = start_forebay()
    browser.open(forebay.admin_port)
    browser.log_in("admin", "wrong")
    browser.wait_text("wrong user or password", "#login-error")
    browser.keys(Keys.ESCAPE)
    time.sleep(5)  # as long as several refreshes
    assert forebay.log().count("wrong credentials over HTTP") == 1
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    browser.press("Log out", "header")
    browser.wait_text("Log in", "header")
    browser.wait_text("", "#account")
    wait_until(lambda: browser.button("Detach main.pg3").get_attribute("aria-disabled") == "true", 10, "no command")


def test_credentials_are_forgotten_with_the_page(opened):
    browser, forebay = opened
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    stored = browser.run("return [localStorage.length, sessionStorage.length, document.cookie, document.body.innerHTML.includes('YWRtaW4')]")
    assert stored == [0, 0, "", False]
    browser.driver.refresh()
    browser.wait_text("main has its primary", "#headline")
    browser.button("Log in", "header")
    assert browser.text("#account") == ""


def test_where_a_login_is_needed_nothing_is_shown_before(browser, start_forebay, keep):
    forebay = start_forebay(config={"admin": {"views_from": []}})
    browser.open(forebay.admin_port)
    browser.wait_text("Nothing to see without a login", "#headline")
    assert browser.nodes() == {} and "pg1" not in browser.text()
    keep(browser, "locked")
    browser.log_in("viewer")
    browser.wait_text("main has its primary", "#headline")
    wait_until(lambda: shows(browser, forebay), 10, "the nodes to be shown")
    browser.press("Log out", "header")
    browser.wait_text("Nothing to see without a login", "#headline")
    assert "pg1" not in browser.text()


# -- by keyboard, by ear, on a phone ----------------------------------------------------------------------------------


def test_a_node_is_detached_by_keyboard_alone(opened, keep):
    browser, forebay = opened
    browser.driver.find_element(By.TAG_NAME, "body").click()
    browser.tab_to("Skip to the services")
    browser.tab_to("Log in")
    browser.keys(Keys.ENTER)
    wait_until(lambda: browser.focused() == "User", 5, "the form")
    browser.keys("admin", Keys.TAB, "admin", Keys.ENTER)
    browser.wait_text("admin (admin)", "#account")
    browser.tab_to("Detach main.pg3")
    keep(browser, "focus", view=True)
    browser.keys(Keys.ENTER)
    wait_until(lambda: browser.focused() == "Cancel", 5, "the dialog")
    # The focus stays in the dialog.
    seen = set()
    for _ in range(6):
        browser.keys(Keys.TAB)
        seen.add(browser.run("return document.activeElement === document.body || document.activeElement.closest('dialog') !== null"))
    assert seen == {True}
    browser.keys(Keys.ESCAPE)
    assert forebay.node("pg3")["state"] == "up"
    wait_until(lambda: browser.focused().replace("…", "") == "Detach main.pg3", 5, "the focus to be where it was")
    time.sleep(2.5)  # a refresh
    assert browser.focused().replace("…", "") == "Detach main.pg3", "a refresh takes nobody's focus"
    browser.keys(Keys.ENTER)
    browser.tab_to("Detach", 4)
    browser.keys(Keys.ENTER)
    browser.wait_text("pg3 is out of service", "#order-answer")
    assert browser.focused() == "Close"
    browser.keys(Keys.ENTER)
    forebay.wait_node("pg3", state="detached")
    wait_until(lambda: browser.nodes().get("pg3", ("", ""))[1] == "detached", 10, "the state to be shown")
    browser.tab_to("Attach main.pg3")
    browser.keys(Keys.ENTER)
    browser.tab_to("Attach", 4)
    browser.keys(Keys.ENTER)
    browser.wait_text("Close", "#order-cancel")
    forebay.wait_node("pg3", state="up")


def nameless(browser, scope):
    """What can be used or seen there, and has no accessible name."""
    found = browser.driver.find_elements(By.CSS_SELECTOR, ", ".join(f"{scope} {tag}" for tag in ("button", "input", "select", "svg")))
    return [one.get_attribute("outerHTML") for one in found if one.is_displayed() and not one.accessible_name]


def test_everything_has_a_name(opened):
    browser, forebay = opened
    with forebay.connect() as connection:
        connection.execute("select 1")
        browser.wait_text("bench / app", "#pools")
        browser.press("Check what would hurt at the next failure")
        wait_until(lambda: browser.rows("Checks of main"), 15, "the checks")
        assert not nameless(browser, "body")
        buttons = [found.accessible_name for found in browser.driver.find_elements(By.CSS_SELECTOR, "main button") if found.is_displayed()]
        assert len(buttons) == len(set(buttons)), "no two buttons have the same name"
    for button, dialog in (("Switch over main", "#order"), ("Log in", "#login")):
        browser.press(button)
        assert browser.driver.find_element(By.CSS_SELECTOR, dialog).accessible_name and not nameless(browser, dialog)
        browser.keys(Keys.ESCAPE)
    assert browser.run("return [...document.querySelectorAll('table')].every((t) => t.caption?.textContent.trim())")
    assert browser.run("return [...document.querySelectorAll('th')].every((th) => th.scope)")
    assert browser.run("return [...document.querySelectorAll('h1,h2,h3')].filter((h) => h.checkVisibility()).map((h) => h.tagName)")[0] == "H1"
    assert browser.run("return ['header', 'nav', 'main', 'footer'].every((name) => document.querySelector(`body > ${name}`))")
    assert browser.run("return document.documentElement.lang") == "en"
    ids = browser.run("return [...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def luminance(colour):
    """WCAG's relative luminance of `rgb(r, g, b)`."""
    parts = [int(part) / 255 for part in colour[colour.index("(") + 1:-1].split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_colour_can_be_read(opened, scheme):
    browser, _ = opened
    browser.looks_like(scheme)
    pairs = browser.run("""
        const box = document.querySelector("#service-list");
        const states = ["up", "draining", "detached", "down", "fenced", "unknown"].map((state) => {
          const made = document.createElement("span");
          made.className = "state"; made.dataset.state = state; made.textContent = state;
          box.append(made);
          return made;
        });
        const verdicts = ["good", "careful", "bad", "none"].map((tone) => {
          const made = document.createElement("div");
          made.className = "verdict"; made.dataset.tone = tone; made.textContent = tone;
          box.append(made);
          return made;
        });
        const others = [...document.querySelectorAll("h1, h2, h3, dt, dd, caption, th, td, a, button, .quiet, .range, .address, summary")];
        const ground = (element) => {
          for (let at = element; at; at = at.parentElement) {
            const colour = getComputedStyle(at).backgroundColor;
            if (!colour.endsWith(", 0)")) return colour;
          }
          return "rgb(255, 255, 255)";
        };
        const pairs = [...states, ...verdicts, ...others].filter((e) => e.checkVisibility())
          .map((e) => [e.tagName + " " + e.textContent.slice(0, 30), getComputedStyle(e).color, ground(e)]);
        [...states, ...verdicts].forEach((e) => e.remove());
        return pairs;
        """)
    for what, text, ground in pairs:
        high, low = sorted((luminance(text), luminance(ground)), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, f"{what}: {text} on {ground}"


@pytest.mark.parametrize("width", [320, 360, 768, 1024, 1280])
def test_no_page_is_wider_than_its_window(opened, keep, width):
    browser, forebay = opened
    with forebay.connect(application_name="x" * 60) as connection:
        connection.execute("select 1")
        browser.looks_like(size=(width, 780))
        browser.wait_text("bench / app", "#pools")
        browser.wait_text("x" * 60, "#clients")
        assert browser.run("return document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")
        if width == 360:
            browser.press("Switch over main")
            assert browser.run("return document.scrollingElement.scrollWidth <= document.scrollingElement.clientWidth")
            keep(browser, "dialog", view=True)
            browser.keys(Keys.ESCAPE)


# -- when the instance is away ----------------------------------------------------------------------------------------


def test_the_page_says_that_nobody_answers_and_recovers(browser, start_forebay, keep):
    forebay = start_forebay()
    browser.open(forebay.admin_port)
    browser.wait_text("main has its primary", "#headline")
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    forebay.kill()
    browser.wait_text("Forebay has not answered since", "#silence")
    browser.wait_text("Next try in", "#silence")
    browser.wait_text("When it answered last: main has its primary", "#headline")
    keep(browser, "silent", view=True)
    asked = len([url for url in browser.requested() if "overview" in url])
    time.sleep(6)
    assert len([url for url in browser.requested() if "overview" in url]) - asked <= 3, "it asks less and less often"
    forebay.start()
    wait_until(lambda: browser.text("#silence") == "", 25, "the page to recover")
    wait_until(lambda: shows(browser, forebay), 10, "the nodes to be shown")
    browser.wait_text("admin (admin)", "#account")


def test_a_hidden_page_asks_nothing(browser, forebay):
    browser.open(forebay.admin_port)
    browser.wait_text("main has its primary", "#headline")
    hide = "Object.defineProperty(document, 'hidden', {value: arguments[0], configurable: true});" \
           "document.dispatchEvent(new Event('visibilitychange'))"
    asked = "return performance.getEntriesByType('resource').filter((entry) => entry.name.includes('overview')).length"
    browser.run(hide, True)
    time.sleep(0.5)
    before = browser.run(asked)
    time.sleep(5)
    assert browser.run(asked) == before
    browser.run(hide, False)
    wait_until(lambda: browser.run(asked) > before, 2, "it to ask at once")


# -- Redis ------------------------------------------------------------------------------------------------------------


def test_a_redis_service_is_shown_and_switched_over(browser, redis_group, start_forebay, keep):
    forebay = start_forebay(redis=redis_group)
    client = forebay.redis().client(client_name=HOSTILE.replace(" ", "/"))
    client.set("a", 1)
    browser.open(forebay.admin_port)
    browser.wait_text("cache has its primary, and all 3 nodes are up", "#headline")
    assert sorted(browser.nodes("cache").values()) == [("primary", "up"), ("replica", "up"), ("replica", "up")]
    assert not browser.driver.find_element(By.ID, "pools").is_displayed()
    old = next(name for name, (role, _) in browser.nodes("cache").items() if role == "primary")
    browser.wait_text(HOSTILE.replace(" ", "/"), "#redis-clients-table")
    browser.log_in("admin")
    browser.wait_text("admin (admin)", "#account")
    browser.press("Switch over cache")
    browser.wait_text("DRY RUN: a switchover from", "#order-promise")
    keep(browser, "asked", view=True)
    browser.press("Switch over", "#order")
    browser.wait_text("Close", "#order-cancel", 40)
    assert browser.run("return document.querySelector('#order-answer').dataset.tone") == "good", browser.text("#order-answer")
    browser.press("Close", "#order")
    wait_until(lambda: browser.nodes("cache").get(old, ("", ""))[0] == "replica", 20, "the old primary to be a replica")
    keep(browser, "after")
    assert any(row["event"] == "switchover_done" for row in forebay.admin("SHOW EVENTS"))
    client.close()
