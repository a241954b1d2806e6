"""CSVs of labels: what is read, what is refused and how, and how rows meet the vectors of a store."""

from __future__ import annotations

import csv
import logging
import unicodedata

import numpy as np
import pytest

from sedembed.errors import ProbeError
from sedembed.probe.label_table import indicator, read_labels


@pytest.fixture
def write(tmp_path):
    def write(text: str | bytes):
        file = tmp_path / "labels.csv"
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        return file

    return write


class TestRead:
    def test_multiclass(self, write):
        table = read_labels(write("path,label\nb/1.wav,dog\na.wav,cat\n"))
        assert table.paths == ["b/1.wav", "a.wav"]
        assert table.labels == [("dog",), ("cat",)]
        assert not table.multilabel
        assert table.classes == ["cat", "dog"]
        assert len(table) == 2

    def test_multilabel(self, write):
        table = read_labels(write("path,label\na.wav,dog; cat ;dog\nb.wav,\nc.wav,rain\nd.wav,;\n"))
        assert table.multilabel
        assert table.labels == [("dog", "cat"), (), ("rain",), ()]

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
    def test_encodings_and_line_ends(self, write, encoding, end):
        text = end.join(["path,label", '"Müll, laut/ü.wav","say ""hi"", Käse"', "", "b.wav,x"])
        table = read_labels(write(text.encode(encoding)))
        assert table.paths == ["Müll, laut/ü.wav", "b.wav"]
        assert table.labels == [('say "hi", Käse',), ("x",)]

    def test_written_by_csv_writer(self, tmp_path):
        rng = np.random.default_rng(0)
        letters = list("ab ,\"'é\n|\t雨")
        rows = [(f"{i}.wav", "x" + "".join(rng.choice(letters, 6)) + "y") for i in range(200)]
        with (tmp_path / "t.csv").open("w", newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows([("path", "label"), *rows])
        table = read_labels(tmp_path / "t.csv")
        assert list(zip(table.paths, [label for (label,) in table.labels], strict=True)) == rows

    def test_paths_of_every_style(self, write):
        table = read_labels(write("path,label\n./a.wav,x\nsub\\b.wav,x\n.\\c\\\\d.wav,x\n e.wav ,x\nf/./g.wav,x\n"))
        assert table.paths == ["a.wav", "sub/b.wav", "c/d.wav", "e.wav", "f/g.wav"]

    def test_other_columns(self, write):
        table = read_labels(write(",fold, label,path,group\n0,1,x,a.wav,g\n1,2,y,b.wav,\n"))
        assert table.columns == {"fold": ["1", "2"], "group": ["g", ""]}
        assert table.column("fold") == ["1", "2"]
        with pytest.raises(ProbeError, match=r"no column 'folds'.*'fold', 'group'"):
            table.column("folds")

    def test_repeated_lines_are_left_out_with_a_warning(self, write, caplog):
        file = write("path,label,fold\na.wav,x;y,1\nb.wav,y,2\n./a.wav,y;x,1\n")
        with caplog.at_level(logging.WARNING):
            assert read_labels(file).paths == ["a.wav", "b.wav"]
        assert "1 lines repeat" in caplog.text


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("", "is empty; expected a first line path,label"),
            ("\n\r\n", "is empty"),
            ("path,label\n", "a header and no rows"),
            ("a.wav,dog\nb.wav,cat\n", "line 1: expected a header.*path and label are missing from 'a.wav,dog'"),
            ("file,label\na.wav,dog\n", "line 1: .* path is missing from 'file,label'; name the columns"),
            ("Path,label\na.wav,dog\n", "path is missing from 'Path,label'"),
            ("path;label\na.wav;dog\n", "separate columns by commas"),
            ("path\tlabel\na.wav\tdog\n", "separate columns by commas"),
            ("path,label,label\na.wav,x,y\n", "line 1: the column 'label' is there twice"),
            ("path,label\na.wav,dog\nb.wav\n", "line 3: expected 2 values, one a column, got 1; complete the line"),
            ("path,label\na.wav,dog, big\n", "line 2: expected 2 values, one a column, got 3; put quotes"),
            ("path,label\n\n,dog\n", "line 3: the path is empty"),
            ("path,label\na.wav,dog\nb.wav, \n", "line 3: 'b.wav' has no label"),
            ("path,label\na.wav,x\nb.wav,y\n./a.wav,z\n", "line 4: 'a.wav' was on line 2 already, with another label"),
            ("path,label,fold\na.wav,x,1\na.wav,x,2\n", "line 3: .*with another fold"),
            ('path,label\na.wav,x\nb.wav,"y\nc.wav,z\n', "line 3: not valid CSV"),
            ('path,label\na.wav,"x"y\n', "line 2: not valid CSV"),
            (b"path,label\na.wav,K\xe4se\n", "line 2: byte 0xe4 is not UTF-8; save it as UTF-8"),
            ("path,label\na.wav,x\n".encode("utf-16"), "is in UTF-16; save it as UTF-8"),
            ("path,label\na.wav,x\n".encode("utf-16-le"), "line 1: expected text, got a zero byte"),
            ("path,label\na.wav," + "x" * 200_000, "line 2: not valid CSV .*field larger"),
        ],
    )
    def test_unusable(self, write, text, said):
        file = write(text)
        with pytest.raises(ProbeError, match=said) as error:
            read_labels(file)
        assert str(file) in str(error.value)
        assert "\n" not in str(error.value)

    def test_line_numbers_count_lines_within_quotes(self, write):
        with pytest.raises(ProbeError, match="line 5"):
            read_labels(write('path,label\n"a\nb.wav",x\n\nc.wav,\n'))

    def test_directory(self, tmp_path):
        with pytest.raises(ProbeError, match="got a directory"):
            read_labels(tmp_path)

    def test_missing(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="Expected a CSV of labels"):
            read_labels(tmp_path / "none.csv")


class TestAlign:
    def test_order_is_that_of_the_store(self, write):
        table = read_labels(write("path,label,fold\nz.wav,1,p\nm.wav,2,q\na.wav,3,r\nq.wav,4,s\n"))
        aligned = table.align(["a.wav", "b.wav", "m.wav", "z.wav"])
        assert aligned.rows.tolist() == [0, 2, 3]
        assert aligned.rows.dtype == np.int64
        assert aligned.labels == [("3",), ("2",), ("1",)]
        assert [table.column("fold")[entry] for entry in aligned.entries] == ["r", "q", "p"]
        assert aligned.unlabelled == ["b.wav"]
        assert aligned.absent == ["q.wav"]

    def test_every_path_is_accounted_for(self, tmp_path):
        rng = np.random.default_rng(1)
        names = [f"{i % 7}/{i}.wav" for i in range(300)]
        labelled, stored = rng.permutation(names)[:200].tolist(), sorted(rng.permutation(names)[:150].tolist())
        (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"{name},of {name}\n" for name in labelled))
        aligned = read_labels(tmp_path / "t.csv").align(stored)
        both = [stored[row] for row in aligned.rows]
        assert both == [name for name in stored if name in set(labelled)]
        assert aligned.labels == [(f"of {name}",) for name in both]
        assert set(both) | set(aligned.unlabelled) == set(stored)
        assert set(both) | set(aligned.absent) == set(labelled)
        assert len(aligned.unlabelled) + len(both) == 150

    def test_spellings_of_one_path(self, write):
        composed, split = unicodedata.normalize("NFC", "é.wav"), unicodedata.normalize("NFD", "é.wav")
        table = read_labels(write(f"path,label\n.\\sub\\{composed},x\n"))
        assert table.align([f"sub/{split}"]).rows.tolist() == [0]
        with pytest.raises(ProbeError, match="cannot tell apart"):
            table.align([f"sub/{split}", f"sub/{composed}"])

    @pytest.mark.parametrize(
        ("written", "stored", "said"),
        [
            (
                "/data/audio/dog/1.wav",
                "dog/1.wav",
                "'/data/audio/dog/1.wav' where the store has 'dog/1.wav'; .*relative",
            ),
            ("1.wav", "dog/1.wav", "the table has '1.wav' where the store has 'dog/1.wav'; write paths relative"),
            ("C:\\audio\\1.wav", "1.wav", "'C:/audio/1.wav' where the store has '1.wav'; write paths relative"),
            ("dog/1.WAV", "Dog/1.wav", "upper and lower case differ"),
            ("dog/1.wav", "dog/1.ogg", "the suffixes differ"),
            ("1", "dog/1.ogg", "relative to the embedded folder, with suffix"),
            ("dog/1.wav", "rain.wav", "the table has 'other.wav', and the store '~.wav'; label the recordings"),
        ],
    )
    def test_nothing_matches(self, write, written, stored, said):
        file = write(f"path,label\nother.wav,x\n{written},y\n")
        with pytest.raises(ProbeError, match=said) as error:
            read_labels(file).align(["~.wav", stored])
        assert str(error.value).startswith(f"none of the 2 paths of {file} has a vector: ")

    def test_empty_store(self, write):
        with pytest.raises(ProbeError, match="the store is empty"):
            read_labels(write("path,label\na.wav,x\n")).align([])


class TestIndicator:
    def test_against_membership(self):
        rng = np.random.default_rng(2)
        classes = ["a", "b", "c", "d"]
        labels = [tuple(rng.permutation(classes)[: rng.integers(0, 5)].tolist()) for _ in range(50)]
        found = indicator(labels, classes)
        assert found.dtype == np.bool_
        assert found.tolist() == [[name in names for name in classes] for names in labels]

    def test_empty(self):
        assert indicator([], ["a"]).shape == (0, 1)

    def test_unknown_label(self):
        with pytest.raises(ProbeError, match="'x' is none of the 2 classes"):
            indicator([("a",), ("x",)], ["a", "b"])
