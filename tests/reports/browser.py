"""A headless browser for tests: Chromium, driven through chromedriver by plain HTTP."""

import base64
import io
import json
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

PROGRAMS = ('chromium', 'chromedriver')
FLAGS = (
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run',
    '--disable-background-networking', '--disable-component-update', '--disable-sync',
    '--disable-dev-shm-usage', '--hide-scrollbars',
)  # fmt: skip
PATIENCE_S = 60


def missing_programs() -> list[str]:
    """Which of the programs needed are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


class Browser:
    """One window. Commands are those of the W3C WebDriver protocol."""

    def __init__(self, address: str, profile: Path):
        self.address = address
        options = {'args': [*FLAGS, f'--user-data-dir={profile}']}
        capabilities = {
            'browserName': 'chrome',
            'goog:chromeOptions': options,
            'goog:loggingPrefs': {'browser': 'ALL', 'performance': 'ALL'},
        }
        answer = self._call('POST', '/session', {'capabilities': {'alwaysMatch': capabilities}})
        self.session = f'/session/{answer["sessionId"]}'

    def command(self, name: str, method: str = 'POST', **arguments: Any) -> Any:
        return self._call(method, f'{self.session}/{name}', arguments)

    def open(self, file: Path) -> None:
        self.command('url', url=file.absolute().as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """Run the body of a function in the page."""
        return self.command('execute/sync', script=script, args=list(arguments))

    def wait(self, condition: str) -> None:
        """Until an expression is true in the page."""
        end = time.monotonic() + PATIENCE_S
        while not self.run(f'return Boolean({condition})'):
            assert time.monotonic() < end, f'never true: {condition}'
            time.sleep(0.1)

    def element(self, selector: str) -> str:
        """Name that the protocol gives an element."""
        found = self.command('element', using='css selector', value=selector)
        return next(iter(found.values()))

    def point_at(self, selector: str) -> None:
        """Bring an element into view and move the mouse to its middle."""
        self.run(
            "document.querySelector(arguments[0]).scrollIntoView({block: 'center'})", selector
        )
        reference = {'element-6066-11e4-a52e-4f735466cecf': self.element(selector)}
        move = {'type': 'pointerMove', 'origin': reference, 'x': 0, 'y': 0, 'duration': 0}
        self.command('actions', actions=[{'type': 'pointer', 'id': 'mouse', 'actions': [move]}])

    def click_at(self, selector: str, across: float, down: float) -> None:
        """Click inside an element, at shares of its width and height."""
        self.point_at(selector)
        x, y = self.run(
            'const b = document.querySelector(arguments[0]).getBoundingClientRect();'
            'return [b.left + arguments[1] * b.width, b.top + arguments[2] * b.height]',
            selector, across, down,
        )  # fmt: skip
        moves = [
            {'type': 'pointerMove', 'x': round(x), 'y': round(y), 'duration': 0},
            {'type': 'pointerDown', 'button': 0},
            {'type': 'pointerUp', 'button': 0},
        ]
        self.command('actions', actions=[{'type': 'pointer', 'id': 'mouse', 'actions': moves}])

    def press(self, selector: str, keys: str) -> None:
        """Type into an element; special keys have the protocol's code points."""
        self.command(f'element/{self.element(selector)}/value', text=keys)

    def resize(self, width: int, height: int) -> None:
        self.command('window/rect', width=width, height=height)

    def emulate(self, **media: str) -> None:
        """Such as ``prefers-color-scheme``, with underscores for hyphens."""
        features = [{'name': k.replace('_', '-'), 'value': v} for k, v in media.items()]
        self.devtools('Emulation.setEmulatedMedia', features=features)

    def let_scripts_run(self, allowed: bool) -> None:
        """Whether pages may run their scripts; those of :meth:`run` always do."""
        self.devtools('Emulation.setScriptExecutionDisabled', value=not allowed)

    def devtools(self, method: str, **parameters: Any) -> Any:
        return self.command('goog/cdp/execute', cmd=method, params=parameters)

    def screenshot(self) -> np.ndarray:
        """The window: uint8, (height, width, 3)."""
        picture = self._call('GET', f'{self.session}/screenshot')
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture))).convert('RGB'))

    def complaints(self) -> list[str]:
        """What the console said since it was last asked."""
        return [entry['message'] for entry in self.command('se/log', type='browser')]

    def requests(self) -> list[str]:
        """Addresses that pages asked for since it was last asked; not what they hold inside."""
        asked = []
        for entry in self.command('se/log', type='performance'):
            event = json.loads(entry['message'])['message']
            if event['method'] == 'Network.requestWillBeSent':
                asked.append(event['params']['request']['url'])
        return [url for url in asked if not url.startswith(('data:', 'chrome:'))]

    def close(self) -> None:
        self._call('DELETE', self.session)

    def _call(self, method: str, path: str, content: Any = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(self.address + path, data, method=method)
        request.add_header('Content-Type', 'application/json')
        # Never through a proxy: the driver is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=PATIENCE_S) as answer:
                return json.load(answer)['value']
        except urllib.error.HTTPError as error:
            raise AssertionError(json.load(error)['value']['message']) from error


@contextmanager
def driver() -> Iterator[str]:
    """Run chromedriver; gives its address."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        ['chromedriver', f'--port={port}'], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        for line in process.stdout:
            if b'started successfully' in line:
                break
        yield f'http://127.0.0.1:{port}'
    finally:
        process.terminate()
        process.wait()
