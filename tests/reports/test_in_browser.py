"""Reports in a real browser: they open from disk, ask for nothing, and what they offer works."""

import base64
from dataclasses import replace

import numpy as np
import pytest

from bids_flair.reports.content import FailedSession
from bids_flair.reports.figures import load_cropped, plan_layout
from bids_flair.reports.participant import write_report

PAGE_UP, ARROW_RIGHT, TAB = '\ue00e', '\ue014', '\ue004'
AXIAL_SYNTHETIC = 'canvas[data-plane="0"][data-column="middle"]'


@pytest.fixture(scope='session')
def report(tmp_path_factory, session):
    """A report with everything, and a second session that failed."""
    path = tmp_path_factory.mktemp('report') / 'sub-01.html'
    failed = FailedSession('01', 'b', 'The bvec file is missing.', 'Traceback:\n  InputError')
    return write_report('01', [session, failed], 'Text.', path, '@misc{a}')


@pytest.fixture
def page(browser, report):
    """The report, opened anew."""
    browser.let_scripts_run(True)
    browser.emulate(prefers_color_scheme='light')
    browser.complaints(), browser.requests()
    browser.open(report)
    browser.point_at('.viewer')
    browser.wait("document.querySelector('.viewer').dataset.ready")
    return browser


def picture(page, selector=AXIAL_SYNTHETIC) -> np.ndarray:
    """What a canvas shows: (height, width, 4)."""
    found = page.run(
        'const c = document.querySelector(arguments[0]);'
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        'return [c.width, c.height, btoa(Array.from(d, (v) => String.fromCharCode(v)).join(""))]',
        selector,
    )
    values = np.frombuffer(base64.b64decode(found[2]), np.uint8)
    return values.reshape(found[1], found[0], 4).astype(int)


def move_slider(page, role: str, value: int) -> None:
    page.run(
        'const s = document.querySelector(`[data-role="${arguments[0]}"]`);'
        's.value = arguments[1]; s.dispatchEvent(new Event("input"))',
        role,
        value,
    )


def test_it_opens_from_disk_and_asks_for_nothing(page, report):
    assert page.requests() == [report.as_uri()]
    assert page.complaints() == []


def test_the_first_screen_is_not_blank_in_light_and_dark(page):
    page.run('scrollTo(0, 0)')
    light = page.screenshot()
    page.emulate(prefers_color_scheme='dark')
    dark = page.screenshot()
    assert light.std() > 20
    assert dark.std() > 20
    assert light.mean() > dark.mean() + 80


def test_the_verdict_stays_in_view(page):
    top = "return document.querySelector('.here').getBoundingClientRect().top"
    page.run('scrollTo(0, document.body.scrollHeight / 2)')
    assert page.run(top) == 0
    assert page.run("return document.querySelector('.here a').textContent").startswith('sub-01 ')
    page.run("location.hash = 'methods'")
    below = page.run("return document.querySelector('#methods').getBoundingClientRect().top")
    assert below >= page.run("return document.querySelector('.here').offsetHeight")


def test_nothing_sticks_out_of_a_narrow_window(page):
    page.resize(800, 1000)
    wide = page.run(
        'return document.documentElement.scrollWidth - document.documentElement.clientWidth'
    )
    page.resize(1400, 1000)
    assert wide <= 0


def test_the_verdict_is_on_the_first_screen(page):
    for selector in ('.verdict', '.checks tr:last-child', '.glance'):
        bottom = page.run(
            'scrollTo(0, 0);'
            'return document.querySelector(arguments[0]).getBoundingClientRect().bottom',
            selector,
        )
        assert 0 < bottom < 1000, selector


def test_the_synthetic_image_arrives_as_it_is(page, head):
    """The slice on the screen is the one of the file: compression changes it little."""
    page.run('document.querySelector(`[data-role="cross"]`).click()')
    shown = picture(page)[::2, ::2, 0][::-1].T
    layout = plan_layout(head.path('mask'), 1700)
    cut = layout.cuts[2][len(layout.cuts[2]) // 2]
    volume = load_cropped(head.path('synthetic'), layout)[:, :, cut]
    shape = np.minimum(shown.shape, volume.shape)
    pair = (shown[: shape[0], : shape[1]].ravel(), volume[: shape[0], : shape[1]].ravel())
    assert np.corrcoef(*pair)[0, 1] > 0.98


def test_sliders_keys_and_clicks_move_one_cursor(page):
    before = picture(page)
    move_slider(page, 'slice2', 5)
    assert np.abs(picture(page) - before).mean() > 5
    told = page.run('return document.querySelector(`[data-role="readout"]`).textContent')
    page.press(AXIAL_SYNTHETIC, PAGE_UP + PAGE_UP + ARROW_RIGHT)
    assert page.run('return document.querySelector(`[data-role="slice2"]`).value') == '7'
    assert told != page.run('return document.querySelector(`[data-role="readout"]`).textContent')
    start = page.run('return document.querySelector(`[data-role="slice0"]`).value')
    page.click_at('canvas[data-plane="0"][data-column="left"]', 0.25, 0.75)
    now = page.run('return document.querySelector(`[data-role="slice0"]`).value')
    last = page.run('return document.querySelector(`[data-role="slice0"]`).max')
    assert now != start
    assert int(now) == pytest.approx(0.25 * int(last), abs=1)


def test_window_fade_and_outline_change_the_picture(page):
    plain = picture(page)
    move_slider(page, 'level', 80)
    assert picture(page)[..., 0].mean() > plain[..., 0].mean() + 5
    move_slider(page, 'level', 50)
    move_slider(page, 'fade', 100)
    faded = picture(page)
    assert np.ptp(faded[..., :3], axis=2).max() > 60  # colour over grey
    move_slider(page, 'fade', 0)
    assert np.ptp(picture(page)[..., :3], axis=2).max() < np.ptp(faded[..., :3], axis=2).max()
    page.run('document.querySelector(`[data-role="outline"]`).click()')
    yellow = picture(page) - plain
    assert (yellow[..., 0] > 40).any()


def test_flicker_alternates_acquired_and_synthetic(page):
    page.press(AXIAL_SYNTHETIC, 'f')
    head_text = 'document.querySelector(`.head[data-label="middle"]`).textContent'
    page.wait(f'{head_text} === "Acquired FLAIR"')
    page.wait(f'{head_text} === "Synthetic FLAIR"')
    page.press(AXIAL_SYNTHETIC, 'f')
    assert page.run(f'return {head_text}') == 'Synthetic FLAIR'


def test_hover_and_focus_flip_a_registration(page):
    def shown():
        return page.run(
            'return getComputedStyle(document.querySelector(".stage .moving")).visibility'
        )

    page.point_at('h1')
    assert shown() == 'hidden'
    page.point_at('.stage')
    assert shown() == 'visible'
    page.point_at('h1')
    page.run('document.querySelector(".stage").focus()')
    assert shown() == 'visible'


def test_every_control_is_reached_by_the_tab_key_and_has_a_name(page):
    reached = page.run(
        'return [...document.querySelectorAll("button, input, select, canvas, .stage, summary")]'
        '.filter((e) => e.tabIndex < 0).length'
    )
    unnamed = page.run(
        'return [...document.querySelectorAll("input, select, canvas")].filter((e) =>'
        '!e.ariaLabel && !(e.labels && [...e.labels].some((l) => l.textContent.trim()))).length'
    )
    assert (reached, unnamed) == (0, 0)


def test_text_stands_out_from_its_ground(page):
    """WCAG AA: a contrast of 4.5 in both colour schemes."""
    script = """
    const light = (c) => { const v = c.match(/[\\d.]+/g).slice(0, 3).map((x) => {
      x /= 255; return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4; });
      return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
    const ground = (e) => { for (; e; e = e.parentElement) {
      const c = getComputedStyle(e).backgroundColor;
      if (!/^rgba.* 0\\)$/.test(c)) return c; } return 'rgb(255, 255, 255)'; };
    return [...document.querySelectorAll('p, td, th, li, a, figcaption, button, label, h1, h2')]
      .filter((e) => e.checkVisibility() && e.textContent.trim())
      .map((e) => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))];
        return [(Math.max(a, b) + .05) / (Math.min(a, b) + .05), e.outerHTML.slice(0, 80)]; })
      .filter(([ratio]) => ratio < 4.5);"""
    for scheme in ('light', 'dark'):
        page.emulate(prefers_color_scheme=scheme)
        assert page.run(script) == [], scheme


def test_without_scripts_still_pictures_serve(browser, report):
    browser.let_scripts_run(False)
    browser.open(report)
    visible = 'return document.querySelector(arguments[0]).checkVisibility()'
    assert not browser.run(visible, '.viewer')
    assert browser.run(visible, '.stills img')
    browser.point_at('.stills')
    assert browser.screenshot().std() > 20
    browser.let_scripts_run(True)


def test_without_acquired_flair_inputs_stand_beside_the_synthetic_one(browser, tmp_path, session):
    alone = replace(session, acquired=None, scores={})
    browser.open(write_report('01', [alone], '', tmp_path / 'sub-01.html'))
    browser.point_at('.viewer')
    browser.wait("document.querySelector('.viewer').dataset.ready")
    heads = browser.run('return [...document.querySelectorAll(".head")].map((e) => e.textContent)')
    assert heads == ['T1w', 'Synthetic FLAIR', 'Uncertainty']
    assert browser.complaints() == []


def test_print_shows_what_the_screen_shows(page):
    printed = page.command('print', background=True)
    assert len(printed) > 100_000
