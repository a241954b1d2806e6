"""Tests of map picture."""

from __future__ import annotations

import numpy as np
import pytest

from sedembed._analysis.map_points import COLOURS, GREY, MapPoints
from tests._analysis.map_helpers import HOSTILE, map_of, shown  # noqa: F401


class TestPicture:
    @pytest.fixture(autouse=True)
    def _matplotlib(self) -> None:
        pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")

    @staticmethod
    def many(groups: int = 20, each: int = 12, names: list[str] | None = None) -> MapPoints:
        rng = np.random.default_rng(1)
        centres = rng.uniform(0, 30, (groups, 2))
        labels: list[str | None] = [
            (names or [f"class number {i}" for i in range(groups)])[i % groups] for i in range(groups * each)
        ]
        labels += [None] * 5
        points = centres[np.arange(len(labels)) % groups] + rng.normal(0, 0.5, (len(labels), 2))
        return map_of(points, labels, title="a $title$ of recordings")

    @pytest.mark.parametrize("dark", [False, True])
    def test_holds_every_point_and_says_what_colours_mean(self, dark: bool):
        from matplotlib.colors import to_hex

        from sedembed._analysis.map_picture import draw_map

        shown = self.many()
        figure = draw_map(shown, dark=dark)
        assert sum(figure.get_facecolor()[:3]) == pytest.approx(0.25 if dark else 3.0, abs=0.2)
        (axes,) = figure.axes
        drawn = np.concatenate([np.asarray(part.get_offsets()) for part in axes.collections])
        np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(map(tuple, shown.projection.points)))
        for code, part in enumerate(axes.collections[1:]):
            mine = shown.projection.points[shown.grouping.codes == code]
            np.testing.assert_allclose(np.asarray(part.get_offsets()), mine)
            assert to_hex(part.get_facecolor()[0]) == COLOURS[code]
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert texts[0] == f"{shown.grouping.names[0]} (12)"
        assert texts[12:] == ["8 more (96)", "no label (5)"]
        keys = [to_hex(handle.get_color()) for handle in figure.legends[0].legend_handles]
        assert keys == [*COLOURS, GREY, GREY]
        assert {text.get_text() for text in figure.texts} == {shown.title, shown.subtitle}

    def test_names_cover_no_names_and_nothing_is_cut_off(self):
        from sedembed._analysis.map_picture import draw_map

        figure = draw_map(self.many(40))
        figure.canvas.draw()  # type: ignore[attr-defined]
        boxes = [text.get_window_extent() for text in figure.axes[0].texts]
        assert len(boxes) > 15
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        for box in [
            *boxes,
            figure.legends[0].get_window_extent(),
            *(text.get_window_extent() for text in figure.texts),
        ]:
            assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
            assert figure.bbox.y0 <= box.y0 <= box.y1 <= figure.bbox.y1

    def test_names_are_no_formulas_and_none_is_lost(self, caplog: pytest.LogCaptureFixture):
        from sedembed._analysis.map_picture import draw_map, to_png

        figure = draw_map(self.many(len(HOSTILE), names=HOSTILE))
        data = to_png(figure)
        assert data.startswith(b"\x89PNG")
        texts = [text.get_text() for text in figure.legends[0].get_texts()]
        assert len(texts) == len(HOSTILE) + 1
        assert "_hidden.wav (12)" in texts
        assert "$5 $bill$ \\frac.wav (12)" in texts
        assert [record.getMessage()[:8] for record in caplog.records] == ["the font"] * 2

    @pytest.mark.parametrize("groups", [["a"], [None], ["a", None], ["a"] * 40])
    def test_few_points_and_groups(self, groups: list[str | None]):
        from sedembed._analysis.map_picture import draw_map, to_png

        figure = draw_map(map_of(np.zeros((len(groups), 2)), groups))
        assert to_png(figure) == to_png(draw_map(map_of(np.zeros((len(groups), 2)), groups)))
