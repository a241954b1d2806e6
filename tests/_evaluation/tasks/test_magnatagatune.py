"""Tests of magnatagatune."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from sedembed._evaluation.evaluate import evaluate
from sedembed._evaluation.tasks.magnatagatune import TOP_TAGS, MagnaTagATune
from sedembed.audio.reader import load_audio
from sedembed.errors import DatasetError
from tests._evaluation.tasks.several_labels_helpers import SHARED, refusal, write_scene

# The header of annotations_final.csv between clip_id and mp3_path.
TAGS = """
no voice,singer,duet,plucking,hard rock,world,bongos,harpsichord,female singing,clasical,sitar,chorus,female opera,
male vocal,vocals,clarinet,heavy,silence,beats,men,woodwind,funky,no strings,chimes,foreign,no piano,horns,classical,
female,no voices,soft rock,eerie,spacey,jazz,guitar,quiet,no beat,banjo,electric,solo,violins,folk,female voice,wind,
happy,ambient,new age,synth,funk,no singing,middle eastern,trumpet,percussion,drum,airy,voice,repetitive,birds,space,
strings,bass,harpsicord,medieval,male voice,girl,keyboard,acoustic,loud,classic,string,drums,electronic,not classical,
chanting,no violin,not rock,no guitar,organ,no vocal,talking,choral,weird,opera,soprano,fast,acoustic guitar,
electric guitar,male singer,man singing,classical guitar,country,violin,electro,reggae,tribal,dark,male opera,
no vocals,irish,electronica,horn,operatic,arabic,lol,low,instrumental,trance,chant,strange,drone,synthesizer,
heavy metal,modern,disco,bells,man,deep,fast beat,industrial,hard,harp,no flute,jungle,pop,lute,female vocal,oboe,
mellow,orchestral,viola,light,echo,piano,celtic,male vocals,orchestra,eastern,old,flutes,punk,spanish,sad,sax,slow,
male,blues,vocal,indian,no singer,scary,india,woman,woman singing,rock,dance,piano solo,guitars,no drums,jazzy,
singing,cello,calm,female vocals,voices,different,techno,clapping,house,monks,flute,not opera,not english,oriental,
beat,upbeat,soft,noise,choir,female singer,rap,metal,hip hop,quick,water,baroque,women,fiddle,english
""".replace("\n", "").split(",")


MAGNA = [
    (
        2,
        "f/american_bach_soloists-j_s__bach_solo_cantatas-01-bwv54__i_aria-30-59.mp3",
        ["classical", "violin", "opera"],
    ),
    (14, "c/lvx_nova-lvx_nova-01-contimune-30-59.mp3", ["techno", "jazz"]),
    (19, "c/lvx_nova-lvx_nova-01-contimune-175-204.mp3", []),
    (219, "b/jacob_heringman-jane_pickeringes_lute_book-01-a_toy-0-29.mp3", ["guitar", "lute"]),
    (224, "d/electric_frankenstein-sick_songs-01-action_high-117-146.mp3", ["metal", "rock", "no voice"]),
    (295, "1/ambient_teknology-phoenix-01-ambient_teknology-0-29.mp3", ["lol"]),
    (32, "e/steven_devine-portrait-01-lesson_1_in_g_major_prelude_james_nares-0-29.mp3", ["harpsicord"]),
    (35644, "6/norine_braun-now_and_zen-08-gently-117-146.mp3", ["female voice"]),
]


def annotations(data, clips=MAGNA, tags=tuple(TAGS), quote='"', delimiter="\t", end="\n", encoding="utf-8"):
    """Write annotations_final.csv; by hand, since the csv module takes seconds for all of it."""
    between = f"{quote}{delimiter}{quote}"

    def line(*fields):
        return f"{quote}{between.join(fields)}{quote}{end}"

    columns = {}  # of each set of tags that occurs
    with (data / "annotations_final.csv").open("w", newline="", encoding=encoding) as stream:
        stream.write(line("clip_id", *tags, "mp3_path"))
        for clip_id, path, given in clips:
            if (known := tuple(given)) not in columns:
                columns[known] = between.join(str(int(tag in given)) for tag in tags)
            stream.write(line(str(clip_id), columns[known], path))


@pytest.fixture
def magna(tmp_path, write_sounds):
    """Small copy in which everything is there."""
    data = tmp_path / "copies" / "magna"
    data.mkdir(parents=True)
    annotations(data)
    return write_sounds(data, {f"mp3/{path}": 0.2 for _, path, _ in MAGNA})


def replace(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


class TestMagnaTagATune:
    def test_reads_tags_parts_and_songs(self, magna):
        contents = MagnaTagATune().read(magna)
        assert [clip.path for clip in contents.clips] == [f"mp3/{path}" for _, path, _ in MAGNA[:-1]]
        assert [clip.part for clip in contents.clips] == ["test", "valid", "valid", "train", "test", "train", "test"]
        assert [set(clip.labels) for clip in contents.clips] == [
            set(given) & set(TOP_TAGS) for _, _, given in MAGNA[:-1]
        ]
        assert contents.clips[1].group == contents.clips[2].group == "c/lvx_nova-lvx_nova-01-contimune"
        assert len({clip.group for clip in contents.clips}) == 6
        assert contents.excluded == {f"mp3/{MAGNA[-1][1]}": "clip 35644 is known to be broken"}
        assert not contents.missing
        assert not contents.extra
        for clip in contents.clips:
            assert load_audio(magna / clip.path, None)[0].shape[-1] > 2000

    def test_names_and_suffixes_in_any_case(self, magna):
        before = MagnaTagATune().read(magna)
        for folder in list((magna / "mp3").iterdir()):
            for file in list(folder.iterdir()):
                file.rename(file.with_name(f"{file.stem.upper()}.MP3"))
            folder.rename(folder.with_name("renamed")).rename(folder.with_name(folder.name.upper()))
        contents = MagnaTagATune().read(magna)
        assert not contents.missing
        assert not contents.extra
        assert [(clip.labels, clip.part, clip.group) for clip in contents.clips] == [
            (clip.labels, clip.part, clip.group) for clip in before.clips
        ]
        assert all((magna / clip.path).is_file() for clip in contents.clips)
        assert len(contents.excluded) == 1

    def test_a_file_that_another_row_names_is_not_taken(self, magna):
        """Names that differ only in case: each row has its own file, or none."""
        twin = MAGNA[0][1].upper().replace("F/", "f/").replace(".MP3", ".mp3")
        annotations(magna, [*MAGNA, (99999, twin, ["rock"])])
        contents = MagnaTagATune().read(magna)
        assert contents.missing == [f"mp3/{twin}"]
        assert len({clip.path for clip in contents.clips}) == len(contents.clips)

    def test_both_readings_of_untagged_clips(self, magna):
        kept, tagged = MagnaTagATune().read(magna), MagnaTagATune(keep_untagged=False).read(magna)
        assert tagged.clips == [clip for clip in kept.clips if clip.labels]
        assert len(kept.clips) - len(tagged.clips) == 3
        sizes = "with them: 2 train, 2 valid, 3 test; without them: 1 train, 1 valid, 2 test"
        assert any("are kept" in note and sizes in note for note in kept.notes)
        assert any("are left out" in note and sizes in note for note in tagged.notes)
        assert not tagged.extra

    @pytest.mark.parametrize("root", ["", "mp3/", "MagnaTagATune/"])
    def test_where_the_folders_may_lie(self, magna, root):
        before = MagnaTagATune().read(magna)
        for folder in list((magna / "mp3").iterdir()):
            (magna / root).mkdir(exist_ok=True)
            folder.rename(magna / root / folder.name)
        (magna / "__MACOSX" / "0").mkdir(parents=True)
        (magna / "__MACOSX" / "0" / "._a.mp3").write_bytes(b"resource fork")
        contents = MagnaTagATune().read(magna)
        assert [clip.path for clip in contents.clips] == [root + path for _, path, _ in MAGNA[:-1]]
        assert [clip.labels for clip in contents.clips] == [clip.labels for clip in before.clips]
        assert not contents.missing

    @pytest.mark.parametrize(
        "options",
        [
            {"quote": ""},
            {"end": "\r\n"},
            {"encoding": "utf-8-sig"},
            {"tags": tuple(sorted(TAGS))},
            {"tags": tuple(sorted(TOP_TAGS))},
        ],
    )
    def test_how_the_table_may_be_written(self, magna, options):
        before = MagnaTagATune().read(magna)
        annotations(magna, **options)
        assert MagnaTagATune().read(magna) == before

    def test_says_what_is_missing_and_what_is_extra(self, magna, write_sounds):
        (magna / "mp3" / MAGNA[1][1]).unlink()
        (magna / "mp3" / MAGNA[-1][1]).unlink()  # broken anyhow
        write_sounds(magna, {"mp3/3/mine.mp3": 0.1, "mp3/f/mine.wav": 0.1, "mp3/mine.wav": 0.1, "store/mine.wav": 0.1})
        contents = MagnaTagATune().read(magna)
        assert contents.missing == [f"mp3/{MAGNA[1][1]}"]
        assert contents.extra == ["mp3/3/mine.mp3", "mp3/f/mine.wav"]
        assert "incomplete: annotations_final.csv has 8 of 25863 rows" in contents.notes

    def test_one_round_tuned_on_folder_c(self, magna):
        task = MagnaTagATune()
        clips = task.read(magna).clips[::-1]
        (only,) = task.rounds(clips)
        folders = ["".join(sorted(clips[i].path[4] for i in part)) for part in (only.train, only.validation, only.test)]
        assert folders == ["1b", "cc", "def"]
        assert only.train.dtype == np.int64

    def test_rounds_of_a_part_of_the_data(self, magna):
        task = MagnaTagATune()
        clips = task.read(magna).clips
        (only,) = task.rounds([clip for clip in clips if clip.part != "valid"])
        assert only.validation is None
        assert (len(only.train), len(only.test)) == (2, 3)
        with pytest.raises(DatasetError, match="folders d to f, found none among 4 clips; add some"):
            task.rounds([clip for clip in clips if clip.part != "test"])
        with pytest.raises(DatasetError, match="folders 0 to b, found none among 5 clips; add some"):
            task.rounds([clip for clip in clips if clip.part != "train"])

    def test_other_layouts(self, magna, tmp_path, write_sounds):
        task = MagnaTagATune()
        assert "no such folder" in refusal(task, tmp_path / "nothing")
        for near in (magna / "mp3", magna / "mp3" / "c", magna.parent):
            assert f"it is in {magna}, so give that folder" in refusal(task, near)
        write_sounds(magna, {"0/copy.mp3": 0.1})
        assert f"MP3 files lie in {magna} and in {magna / 'mp3'}; move all of them into one" in refusal(task, magna)
        (magna / "0" / "copy.mp3").unlink()
        (magna / "mp3").rename(magna / "0" / "mp3")
        assert "join the parts (cat mp3.zip.00* > mp3.zip) and extract mp3.zip there" in refusal(task, magna)
        (magna / "annotations_final.csv").unlink()
        assert "annotations_final.csv is not there" in refusal(task, magna)

    def test_end_to_end(self, tmp_path, untrained_embedder):
        data = tmp_path / "MagnaTagATune"
        given = [["rock"], ["techno"], ["rock", "techno"], ["jazz"]] * 6
        clips = [
            (i, f"{'1bc'[i % 3] if i < 16 else 'def'[i % 3]}/band-album-01-song_{i}-0-29.mp3", tags)
            for i, tags in enumerate(given)
        ]
        for i, path, tags in clips:
            sound = {"rock": "Bark", "techno": "Hiss", "jazz": ""}
            write_scene(data / path, ",".join(sound[tag] for tag in tags), i)
        annotations(data, clips)
        (data / clips[-1][1]).write_bytes(b"no sound")
        with pytest.raises(DatasetError, match="has 24 of 25863 rows"):
            evaluate(MagnaTagATune(), data, untrained_embedder, tmp_path / "results", progress=False)
        result = evaluate(MagnaTagATune(), data, untrained_embedder, tmp_path / "results", partial=True, progress=False)
        assert result["split_sizes"] == {"train": 11, "valid": 5, "test": 7}
        assert list(result["failures"]) == [clips[-1][1]]
        assert (result["missing"], result["partial"], result["metric"]) == (1, True, "mauc")
        assert set(result["per_class"]) == {"rock", "techno"}
        assert result["score"] > 0.9
        assert any("without a top-50 tag are kept" in note for note in result["notes"])

    def test_damaged_header(self, magna):
        task = MagnaTagATune()
        annotations(magna, delimiter=",")
        assert "are not separated by tabs; fetch it again" in refusal(task, magna)
        annotations(magna, tags=[tag for tag in TAGS if tag != "no vocals"])
        assert "lacks the columns ['no vocals']; fetch it again" in refusal(task, magna)
        annotations(magna, tags=["guitar", "noVocals"])
        assert re.search(r"lacks the columns \[('[a-z ]+',? ?){5}\] and 44 more;", refusal(task, magna))
        annotations(magna, tags=[*TAGS, "guitar"])
        assert "has the columns ['guitar'] more than once" in refusal(task, magna)
        (magna / "annotations_final.csv").write_bytes(b"\xff\xfeclip_id\t")
        assert "cannot be read" in refusal(task, magna)
        (magna / "annotations_final.csv").write_bytes(b"")
        assert "not separated by tabs" in refusal(task, magna)

    @pytest.mark.parametrize(
        ("old", "new", "problem"),
        [
            ('\n"219"\t"0"', '\n"219"\t"2"', "gives clip 219 2 for 'no voice', not 0 or 1; fetch it again"),
            ('\n"219"\t"0"', '\n"219"\t"yes"', r"is damaged \(.*yes.*\); fetch it again"),
            ('\n"219"\t"0"', '\n"219"\t""', r"is damaged \(.*\); fetch it again"),
            ('\n"219"\t"0"', '\n"219"', r"is damaged \(.*190 columns, got 189.*\); fetch it again"),
            ('\n"219"\t', '\n"a"\t', r"is damaged \(.*\); fetch it again"),
            ('\n"219"\t', '\n"224"\t', "has clip_id 224 2 times; fetch it again"),
            (
                '"c/lvx_nova-lvx_nova-01-contimune-30-59',
                '"c/lvx_nova-lvx_nova-01-contimune-175-204',
                "mp3_path c/.* 2 times",
            ),
            ('"c/lvx_nova-lvx_nova-01-contimune-30', '"../lvx', "mp3_path '../lvx-59.mp3', expected such as"),
            ('"c/lvx_nova-lvx_nova-01-contimune-30', '"g/lvx', "mp3_path 'g/lvx-59.mp3', expected such as"),
        ],
    )
    def test_damaged_rows(self, magna, old, new, problem):
        replace(magna / "annotations_final.csv", old, new)
        assert re.search(problem, refusal(MagnaTagATune(), magna))

    def test_no_rows(self, magna):
        annotations(magna, clips=[])
        assert "has 0 rows, the original has 25863" in refusal(MagnaTagATune(), magna)

    @pytest.mark.parametrize(
        ("tags", "given", "note"),
        [
            (("jazz", *TOP_TAGS), (*TOP_TAGS, "jazz"), None),  # as frequent as the others
            (("jazz", *TOP_TAGS), (*TOP_TAGS[1:], "jazz"), "include ['jazz'] instead of ['guitar']; the usual 50 are"),
        ],
    )
    def test_tags_of_a_whole_file_are_counted(self, magna, tags, given, note):
        clips = [(i, f"0/{i}.mp3", given if i < 100 else ()) for i in range(25863)]
        annotations(magna, clips, tags, quote="")
        contents = MagnaTagATune().read(magna)
        assert not any(text.startswith("incomplete:") for text in contents.notes)
        assert [note in text for text in contents.notes if "most frequent" in text] == ([True] if note else [])
        assert contents.clips[0].labels == tuple(tag for tag in TOP_TAGS if tag in given)

    def test_too_many_rows(self, magna):
        annotations(magna, [(i, f"0/{i}.mp3", ()) for i in range(25864)], TOP_TAGS, quote="")
        assert "has 25864 rows, the original has 25863" in refusal(MagnaTagATune(), magna)

    def test_the_list_of_tags(self):
        assert len(TAGS) == len(set(TAGS)) == 188
        assert len(set(TOP_TAGS)) == MagnaTagATune.classes == 50
        assert set(TOP_TAGS) < set(TAGS)

    @pytest.mark.shared
    def test_full_metadata(self, tmp_path, write_sounds):
        source = SHARED / "MagnaTagATune"
        if not source.is_dir():
            pytest.skip(f"needs {source}")
        names = (source / "top50_tags.txt").read_text().split()
        assert tuple(re.sub("(?=[A-Z])", " ", name).lower() for name in names) == TOP_TAGS
        columns = list(TOP_TAGS)
        columns[47:49] = columns[48], columns[47]  # these two files are of another source: metal, then female voice
        tags = {}
        for file in ("test_gt_mtt.tsv", "val_gt_mtt.tsv"):
            for line in (source / file).read_text().splitlines():
                clip_id, given = line.split("\t")
                tags[clip_id] = [columns[k] for k in np.flatnonzero(json.loads(given))]
        filtered = {
            part: set((source / f"filtered_{part}.txt").read_text().replace(".npy", ".mp3").split())
            for part in ("train", "valid", "test")
        }
        index = [line.split("\t") for line in (source / "index_MAGNA.tsv").read_text().splitlines()]
        # Of a training clip it is only known whether it has tags.
        clips = [(i, path, tags.get(i, ["guitar"] if path in filtered["train"] else [])) for i, path in index]
        annotations(tmp_path, clips)
        write_sounds(tmp_path, {f"mp3/{clips[0][1]}": 0.1})
        sizes = {True: (18706, 1825, 5329), False: (15244, 1529, 4332)}
        for keep, expected in sizes.items():
            task = MagnaTagATune(keep_untagged=keep)
            contents = task.read(tmp_path)
            (only,) = task.rounds(contents.clips)
            assert (len(only.train), len(only.validation), len(only.test)) == expected
            assert len(contents.clips) == sum(expected)
            assert len(contents.missing) == sum(expected) - 1
            assert {path.split("-")[1] for path in contents.excluded} == {
                "now_and_zen",
                "josquin_des_prez_lute_settings",
                "dances_and_suites_of_rameau_and_couperin",
            }
            assert not contents.extra
            (note,) = contents.notes
            both = [tuple(map(int, found)) for found in re.findall(r"(\d+) train, (\d+) valid, (\d+) test", note)]
            assert both == list(sizes.values())
            found = {part: {clip.path[4:] for clip in contents.clips if clip.part == part} for part in filtered}
            assert found == filtered if not keep else all(filtered[part] < found[part] for part in filtered)
            if keep:
                assert len(contents.clips) == task.clips
                read = {clip.path[4:]: set(clip.labels) for clip in contents.clips}
                assert all(read[path] == set(given) for _, path, given in clips if path in read)
                # The columns of the two files are as supposed: who hears a female voice hears no metal, but women.
                heard = [labels for labels in read.values() if "female voice" in labels]
                assert len(heard) > 100
                assert sum("metal" in labels for labels in heard) < 5 < sum("woman" in labels for labels in heard)
