"""What several test files share: a tiny model with random weights, on disk; photos; a command line; a browser."""

import io
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests run side by side, one a core

# A shell without job control lets its background jobs, and all that they start, ignore Ctrl-C. Some tests send it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--mutations", type=int, default=30, help="fuzz: how many damaged files per backend")
    parser.addoption("--kills", type=int, default=20, help="chaos: how often a bulk run is killed")
    parser.addoption("--photos", type=int, default=500, help="chaos: how many photos it has")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """The checkpoint of an untrained model: it babbles, but everything else about it is real."""
    import torch

    from captioner.backends.torch_backend import TorchBackend
    from captioner.captioner import Captioner
    from captioner.checkpoint.tensors import save_checkpoint
    from captioner.config import ModelConfig
    from captioner.decoding import Decoding
    from captioner.images import Preprocess
    from captioner.model import build_model
    from captioner.vocabulary import Vocabulary

    torch.manual_seed(0)
    vocabulary = Vocabulary("a the dog cat 's ball runs sleeps on under grass sofa and".split())  # noqa: SIM905
    config = ModelConfig("squeezenet1_1", embedding_size=16, hidden_size=24)
    model = build_model(config, len(vocabulary), weights=None)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.mul_(3)  # so that it has opinions
    captioner = Captioner(
        TorchBackend(model, torch.device("cpu")), vocabulary, Preprocess(64), config, Decoding(max_length=8)
    )
    directory = tmp_path_factory.mktemp("checkpoint") / "tiny"
    save_checkpoint(directory, model.state_dict(), captioner.to_config(), "A tiny model.\n", half=False)
    return directory


@pytest.fixture(scope="session")
def photos(tmp_path_factory) -> Path:
    """A folder of photos of several sizes, and one below it."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, size in {"b.jpg": (80, 60), "a.png": (50, 90), "c.webp": (64, 64), "deeper/d.jpg": (70, 70)}.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        small = random.integers(0, 256, (5, 5, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture
def run(monkeypatch, capsys):
    """Run a command line in this process; returns exit status, standard output, standard error."""
    from captioner.cli import main

    def run(*arguments, stdin: str | bytes = ""):
        monkeypatch.setattr(sys, "argv", ["captioner", *map(str, arguments)])
        stdin = stdin if isinstance(stdin, bytes) else stdin.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin))))
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def unlistable(monkeypatch):
    """Makes folders whose path ends in a name folders that may not be listed; even root is refused."""

    def unlistable(name: str) -> None:
        listed = os.scandir

        def scandir(path):
            if str(path).endswith(name):
                raise PermissionError(13, "Permission denied", path)
            return listed(path)

        monkeypatch.setattr(os, "scandir", scandir)

    return unlistable


@pytest.fixture(scope="session")
def serve() -> Iterator[Callable[..., int]]:
    """Serves an ASGI application, in a thread and until the tests end; returns the port on 127.0.0.1."""
    from captioner.web.serve import listen, server

    running = []

    def serve(application) -> int:
        listening, process = listen("127.0.0.1", 0), server(application)
        thread = threading.Thread(target=process.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((listening, process, thread))
        while not process.started:
            assert thread.is_alive()
            time.sleep(0.01)
        return listening.getsockname()[1]

    yield serve
    for listening, process, thread in running:
        process.should_exit = True
        thread.join(timeout=20)
        listening.close()


@pytest.fixture(scope="session")
def chromium():
    """A headless Chromium, one for all tests of a process."""
    driver, program = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
    if not driver or not program:
        pytest.skip("no Chromium and its driver here: apt-get install chromium chromium-driver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    for argument in ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"):  # a camera of moving colours
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    browser.set_script_timeout(20)
    yield browser
    browser.quit()


@pytest.fixture
def look(chromium):
    """Changes the window, in CSS pixels, the theme, and whether a person wants less motion."""

    def look(width: int = 1200, height: int = 800, dark: bool = False, calm: bool = False) -> None:
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        theme, motion = "dark" if dark else "light", "reduce" if calm else ""
        wishes = {"prefers-color-scheme": theme, "prefers-reduced-motion": motion}
        chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": name, "value": value} for name, value in wishes.items()]
        chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    return look


@pytest.fixture
def browser(chromium, look):
    """Chromium as on a laptop: an empty page, a light theme, motion allowed."""
    chromium.get("about:blank")
    chromium.get_log("browser")  # forgets what was there
    look()
    return chromium
