"""Functions behind the controls, and the page as a visitor uses it in a real browser."""

import base64
import io
import json
import re
import shutil
import time
from contextlib import suppress

import numpy as np
import pytest
import torch
from PIL import Image

from saccade.explanation import activation_maps
from saccade.metrics import sfd
from saccade.web.examples import find_examples
from saccade.web.looks import Looks
from saccade.web.networks import open_networks
from saccade.web.page import PageFunctions
from saccade.web.pictures import Pictures

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")


@pytest.fixture(scope="module")
def functions(study, saved):
    networks = {network.name: network for network in open_networks([study, saved])}
    return PageFunctions(Looks(networks, find_examples(list(networks.values()))[0], Pictures()))


def cards(functions, source=None, networks=("none", "cbam"), label="", layer="", method="gradcam", threshold=0.5):
    source = functions.first_source if source is None else source
    return functions.cards(source, list(networks), label, layer, method, threshold, 0.6)


def planes(html):
    """Return the pictures with a heat map, uint8 (H, W, 3), in the order of the cards."""
    found = re.findall(r'<img class="map [^"]*" src="data:image/\w+;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB")) for text in found]


def test_the_page_opens_with_a_disputed_image_and_two_networks(functions):
    html = cards(functions, networks=[*functions.first_networks[:1], "cbam"])
    one, two = planes(html)
    assert one.shape == two.shape == (24, 24, 3)
    assert not np.array_equal(one, two)
    assert re.findall(r'data-network="(\w+)"', html) == ["none", "cbam"]
    assert html.count('class="bars"') == 2
    assert "no gates" in html
    assert "layer1" in html.partition('data-network="cbam"')[2]


def test_the_numbers_of_a_card_are_those_of_the_network(functions):
    network, examples = functions.looks.networks["none"], functions.looks.examples
    index = examples.indices[0]
    label = examples.truth(index)
    images = examples.tensor(index)[None]
    (values,) = activation_maps(network.prepared.module, images, [int(label)]).values()
    expected = float(sfd(values[0], examples.regions(index)[int(label)], threshold=0.3))
    html = cards(functions, label=label, threshold=0.3, networks=["none"])
    assert re.search(r"<dt>sfd</dt><dd>([\d.–]+)", html)[1] == f"{expected:.2f}"
    with torch.no_grad():
        probability = float(network.prepared.module(images).softmax(1).max())
    assert f"{100 * probability:.1f} %" in html
    assert "outline" in html
    other = str((int(label) + 1) % 10)
    assert f"no region of {other}" in cards(functions, label=other, networks=["none"])


def test_threshold_class_layer_and_method_change_the_map(functions):
    first = cards(functions)
    other = functions.classes(functions.first_source, ["none"])[3][1]  # the third of the predictions
    for change in ({"threshold": 0.9}, {"label": other}, {"layer": "layer1.0"}, {"method": "eigencam"}):
        assert not np.array_equal(planes(cards(functions, **change))[0], planes(first)[0]), change
    assert cards(functions) == first


def test_an_upload_goes_through_every_network(functions):
    file = io.BytesIO()
    Image.effect_noise((70, 50), 90).convert("RGB").save(file, "PNG")
    source = f"upload:{functions.looks.pictures.add(file.getvalue())}"
    html = cards(functions, source, ["none", "saved"])
    assert [plane.shape for plane in planes(html)] == [(24, 24, 3), (48, 40, 3)]
    assert "<dt>sfd" not in html
    assert "<b>cat" not in html
    assert "&lt;b&gt;cat&lt;/b&gt;" in html
    assert functions.classes(source, ["saved"])[0][1] == ""
    labels = functions.looks.networks["saved"].labels
    assert {name for _, name in functions.classes(source, ["saved"])[1:]} == set(labels)
    assert "<script>" not in html


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"source": ""}, "Take a test image"),
        ({"source": "example:999"}, "no such test image"),
        ({"source": "example:-1"}, "no such picture"),
        ({"source": "upload:../../etc/passwd"}, "no longer in memory"),
        ({"source": "/etc/passwd"}, "no such picture"),
        ({"networks": []}, "at least one network"),
        ({"networks": ["<script>"]}, "at least one network"),
        ({"label": "<img src=x>"}, "no class"),
        ({"layer": "__class__"}, "no layer"),
        ({"layer": "fc"}, "fc"),
        ({"method": "os.system"}, "no method"),
        ({"threshold": 7.0}, "threshold"),
    ],
)
def test_impossible_wishes_get_a_message(functions, values, message):
    html = cards(functions, **values)
    assert message in html
    assert "<script>" not in html
    assert "<img src=x" not in html
    assert not planes(html)


@pytest.fixture
def browser():
    """Chromium from Debian, for which no name but 127.0.0.1 resolves."""
    if not CHROMIUM or not DRIVER:
        pytest.skip("needs chromium and chromedriver, as in Debian's packages of these names")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for switch in (
        "headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "window-size=1300,1000",
        "host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{switch}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def wait_for(get, seconds=20):
    """Return the first true value of ``get()``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with suppress(Exception):  # an element that is being replaced
            if value := get():
                return value
        time.sleep(0.05)
    return get()


def requests(browser):
    """Return the addresses that the browser asked for since the last call."""
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


def test_a_visit_in_a_browser(browser, address, tmp_path, settings):
    def all_of(selector):
        return browser.find_elements("css selector", selector)

    def shown():
        return [image.get_attribute("src") for image in all_of("#cards img.map")]

    browser.get(address)
    for word, title in (("wrong", "Log in"), ("a long: password", "Saccade: where the network looks")):
        user, password = wait_for(lambda: all_of("form input"))
        user.send_keys("ana")
        password.send_keys(word)
        all_of("form button")[0].click()
        if word == "wrong":
            assert wait_for(lambda: all_of("[role=alert]"))[0].text == "User name or password is wrong."
        assert wait_for(lambda title=title: title in browser.title)
    assert wait_for(
        lambda: "cannot show that the network needs" in all_of("#look")[0].find_element("xpath", "//body").text
    )
    assert wait_for(lambda: len(shown()) == 2)

    Image.effect_noise((90, 60), 90).convert("RGB").save(tmp_path / "noise.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "noise.png").read_bytes()[:100])
    before = shown()
    all_of("#picture-file")[0].send_keys(str(tmp_path / "broken.png"))
    assert wait_for(lambda: all_of("#upload-message")[0].text.startswith("The file cannot be read"))
    all_of("#picture-file")[0].send_keys(str(tmp_path / "noise.png"))
    assert wait_for(lambda: all_of(".card.source h3")[0].text == "Your picture")
    boxes = {box.find_element("xpath", "..").text: box for box in all_of("#networks input")}
    names = wait_for(lambda: {name.text for name in all_of("[data-network=saved] .name")})
    assert names == {"<b>cat</b>", "</script><script>alert(1)</script>{{value}}${1+1}"}
    for name in ("cbam", "saved"):
        boxes[name].click()
    assert wait_for(
        lambda: [card.get_attribute("data-network") for card in all_of(".card.network")] == ["none", "cbam"]
    )
    maps = wait_for(lambda: len(set(shown())) == 2 and shown())
    assert not set(maps) & set(before)
    assert browser.execute_script(
        "return [...document.querySelectorAll('#cards img.map')].every((i) => i.complete && i.naturalWidth === 24)"
    )

    all_of("#threshold input[type=range]")[0].send_keys("\ue014" * 6)  # arrow to the right
    assert wait_for(lambda: len(shown()) == 2 and set(shown()) != set(maps))
    all_of("#tabs button[role=tab]")[1].click()
    tile = wait_for(lambda: all_of("#gallery .tile"))[0]
    wait_for(tile.is_displayed)
    tile.click()
    number = tile.get_attribute("data-source").partition(":")[2]
    assert wait_for(lambda: all_of(".card.source h3")[0].text == f"Test image {number}")

    asked = [url for url in requests(browser) if not url.startswith("data:")]
    assert [url for url in asked if not url.startswith(f"{address}/") and not url.startswith("chrome")] == []
    assert f"{address}/picture" in asked
    expected = ("/picture - ", "/login - ", "status of 401")  # the broken picture, the wrong password, no session yet
    faults = [entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert [fault for fault in faults if not any(text in fault for text in expected)] == []
    with pytest.raises(Exception, match="ERR_NAME_NOT_RESOLVED"):
        browser.get("http://example.com/")
    assert any("example.com" in url for url in requests(browser))  # the log would show a request elsewhere
