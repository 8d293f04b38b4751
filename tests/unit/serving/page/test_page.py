"""The chat page in headless Chromium, before an endpoint with stand-ins behind it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from stand_ins.browser import Tab, find_chromium, open_tab
from stand_ins.http_server import serving
from unit.serving.fakes import FakePassage

CHROMIUM = find_chromium()
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install Debian's package `chromium`")
ATTACK = "<img src=x onerror=\"document.title='broken'\"><script>document.title='broken'</script>"


class Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """This isn't the main thread."""


@pytest.fixture
def page(endpoint) -> Iterator[str]:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        held.listen()
        server = Server(uvicorn.Config(endpoint.app, log_level="warning", lifespan="off"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [held]})
        thread.start()
        deadline = time.monotonic() + 10
        while not server.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        yield f"http://127.0.0.1:{held.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def tab(page: str, tmp_path: Path) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with open_tab(CHROMIUM, tmp_path) as tab:
        tab.call("Page.navigate", url=page)
        tab.until("document.readyState === 'complete' && document.getElementById('status').textContent")
        yield tab


def enter_key(tab: Tab, key: str = "key-of-all") -> None:
    tab.run("document.getElementById('key').focus()")
    tab.write(key)
    tab.press("Tab")


def ask(tab: Tab, question: str) -> None:
    tab.until("!document.getElementById('model').disabled")
    tab.run("document.getElementById('question').focus()")
    tab.write(question)
    tab.press("Enter")


def answered(tab: Tab, count: int = 1) -> None:
    tab.until(
        f"document.querySelectorAll('article.assistant').length === {count} && document.getElementById('stop').hidden"
    )


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_page_needs_no_key_and_nothing_from_elsewhere(endpoint, anyio_backend):
    async with endpoint.client(key="") as client:
        home = await client.get("/")
        parts = {name: await client.get(f"/page/{name}") for name in ("chat.js", "chat.css", "icon.svg")}
    assert home.status_code == 200
    assert home.headers["content-type"].startswith("text/html")
    for response in (home, *parts.values()):
        assert response.status_code == 200
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "http" not in response.text.replace("http://www.w3.org/2000/svg", "")
    assert "onclick" not in home.text
    assert "<style" not in home.text
    assert "innerHTML" not in parts["chat.js"].text


@needs_chromium
def test_a_question_its_answer_and_the_passage_behind_it(tab: Tab, page: str, endpoint) -> None:
    enter_key(tab)
    names = tab.until("[...document.querySelectorAll('#model option')].map(o => o.value).join()")
    assert names == "app,base,tuned,other"
    tab.run("document.getElementById('model').value = 'other'")
    ask(tab, "What is the answer?")
    answered(tab)
    assert tab.run("document.querySelector('article.assistant p').textContent") == "Forty-two."
    assert endpoint.llm.requests[-1].adapter == "other"
    assert tab.run("document.activeElement.id") == "question"
    sources = "[...document.querySelectorAll('article.assistant ol button')]"
    assert tab.run(f"{sources}.map(b => b.textContent).join()") == "[1] a.md,[2] b.md"
    tab.run(f"{sources}[0].focus()")
    tab.press("Enter")
    assert tab.until("document.getElementById('passage').open")
    assert tab.run("document.getElementById('text').textContent") == "The answer is forty-two."
    tab.press("Escape")
    assert tab.until("!document.getElementById('passage').open")
    # Asked again, the conversation goes along.
    ask(tab, "Why?")
    answered(tab, 2)
    assert [turn["role"] for turn in endpoint.llm.requests[-1].messages] == ["system", "user", "assistant", "user"]
    # The key outlives a reload, in this tab alone; all that was asked of the network is ours, and nothing was refused.
    tab.call("Page.reload")
    tab.until("document.getElementById('key')?.value === 'key-of-all'")
    tab.until("!document.getElementById('model').disabled")
    assert tab.run("localStorage.length") == 0
    urls = {event["request"]["url"] for event in tab.of("Network.requestWillBeSent")}
    assert all(url.startswith(page) for url in urls)
    assert [entry["entry"]["text"] for entry in tab.of("Log.entryAdded")] == []
    assert tab.of("Runtime.exceptionThrown") == []


@needs_chromium
def test_what_a_model_or_a_document_says_is_text(tab: Tab, endpoint) -> None:
    endpoint.llm.words = (ATTACK,)
    endpoint.search.passages[:] = [FakePassage("p", ATTACK, ATTACK, 0.5)]
    enter_key(tab)
    ask(tab, ATTACK)
    answered(tab)
    tab.run("document.querySelector('article ol button').click()")
    assert tab.run("document.getElementById('text').textContent") == ATTACK
    assert tab.run("document.querySelector('article.assistant p').textContent") == ATTACK
    assert tab.run("document.images.length") == 0
    assert tab.run("document.title") == "Tandem"


@needs_chromium
def test_what_goes_wrong_is_said(tab: Tab, endpoint) -> None:
    assert "API key" in tab.run("document.getElementById('status').textContent")
    enter_key(tab, "wrong")
    assert tab.until("document.getElementById('status').textContent.includes('known here')")
    tab.run("document.getElementById('key').value = ''")
    enter_key(tab)
    endpoint.llm.error, endpoint.llm.error_after = RuntimeError("broken"), 1
    ask(tab, "What is the answer?")
    answered(tab)
    assert "The endpoint failed" in tab.run("document.getElementById('status').textContent")
    assert tab.run("document.querySelector('article.assistant').className").split() == ["assistant", "error"]


@needs_chromium
def test_an_answer_can_be_stopped(tab: Tab, endpoint) -> None:
    endpoint.llm.hangs_after = 2
    enter_key(tab)
    ask(tab, "What is the answer?")
    tab.until("document.querySelector('article.assistant p')?.textContent === 'Forty-two'")
    tab.run("document.getElementById('stop').click()")
    answered(tab)
    deadline = time.monotonic() + 10
    while endpoint.llm.open:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@needs_chromium
def test_a_new_chat_knows_nothing_of_an_answer_that_was_still_coming(tab: Tab, endpoint) -> None:
    endpoint.llm.hangs_after = 2
    enter_key(tab)
    ask(tab, "What is the answer?")
    tab.until("document.querySelector('article.assistant p')?.textContent === 'Forty-two'")
    tab.run("document.getElementById('clear').click()")
    tab.until("document.getElementById('stop').hidden")
    assert tab.run("document.querySelectorAll('article').length") == 0
    assert tab.run("document.getElementById('status').textContent") == ""
    endpoint.llm.hangs_after = None
    ask(tab, "Why?")
    answered(tab)
    assert tab.run("document.querySelector('article.assistant p').textContent") == "Forty-two."
    sent = endpoint.llm.requests[-1].messages
    assert [turn["role"] for turn in sent] == ["system", "user"]
    assert "Why?" in sent[-1]["content"]
    # Its own turns go along, as ever.
    ask(tab, "And how?")
    answered(tab, 2)
    assert [turn["role"] for turn in endpoint.llm.requests[-1].messages] == ["system", "user", "assistant", "user"]


@needs_chromium
def test_on_a_phone_everything_is_within_the_screen(page: str, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    with open_tab(CHROMIUM, tmp_path, width=360, height=640) as tab:
        tab.call("Page.navigate", url=page)
        tab.until("document.readyState === 'complete' && document.getElementById('status').textContent")
        enter_key(tab)
        ask(tab, "What is the answer? " + "x" * 200)
        answered(tab)
        assert tab.run("document.documentElement.scrollWidth") <= 360
        assert tab.run("document.getElementById('send').getBoundingClientRect().bottom") <= 640
        assert tab.run("document.getElementById('send').getBoundingClientRect().height") >= 40


APPEND_SLASH = FakePassage(
    "p1",
    "docs/ref/settings.txt",
    "APPEND_SLASH\n\nDefault: True\n\nWhen set to True, if the request URL does not match any of the "
    "patterns in the URLconf and it doesn't end in a slash, an HTTP redirect is issued to the same URL with a slash "
    "appended.",
    0.81,
)
MIDDLEWARE = FakePassage(
    "p2",
    "docs/ref/middleware.txt",
    "CommonMiddleware performs URL rewriting based on the APPEND_SLASH and PREPEND_WWW settings.",
    0.64,
)
TALK = {
    "What does Django do with a URL that lacks its trailing slash?": (
        "If the URL matches no pattern and APPEND_SLASH is True, which is the default, CommonMiddleware redirects to "
        "the same URL with a slash appended."
    ),
    "And what becomes of the data of a POST?": (
        "It is lost in the redirect. That is why, with DEBUG on, Django raises an error for such a POST instead of "
        "redirecting: point the form at the URL that ends in a slash, or set APPEND_SLASH = False."
    ),
}


@needs_chromium
def test_the_picture_in_the_docs(make_endpoint, tmp_path: Path) -> None:
    """A conversation as people have them; `TANDEM_PICTURE=docs/images/chat.png pytest -k picture …` makes it anew."""
    endpoint = make_endpoint(name="django", adapters=[], default_model=None)
    endpoint.search.passages[:] = [APPEND_SLASH, MIDDLEWARE]
    endpoint.llm.says = {f"Question: {question}": answer for question, answer in TALK.items()}
    picture = Path(os.environ.get("TANDEM_PICTURE") or tmp_path / "chat.png")
    assert CHROMIUM is not None
    with serving(endpoint.app) as url, open_tab(CHROMIUM, tmp_path / "profile", width=900, height=560) as tab:
        tab.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
        tab.call("Page.navigate", url=url)
        tab.until("document.readyState === 'complete' && document.getElementById('status').textContent")
        enter_key(tab)
        for number, (question, answer) in enumerate(TALK.items(), start=1):
            ask(tab, question)
            answered(tab, number)
            assert tab.run("[...document.querySelectorAll('article.assistant p')].at(-1).textContent") == answer
        picture.parent.mkdir(parents=True, exist_ok=True)
        tab.picture(picture)
    assert 5_000 < picture.stat().st_size < 150_000
