"""The multi-label tasks on small copies in the official layout, and on the full metadata where they are at hand."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile

from sedembed import metrics
from sedembed._evaluation.evaluate import evaluate
from sedembed._evaluation.tasks.base import Clip
from sedembed._evaluation.tasks.fsdkaggle2019 import FSDKaggle2019Curated, FSDKaggle2019Noisy
from sedembed._evaluation.tasks.magnatagatune import TOP_TAGS, MagnaTagATune
from sedembed.audio.reader import load_audio
from sedembed.errors import DatasetError

SHARED = Path(__file__).parents[4] / "shared" / "data" / "metadata"
META = "FSDKaggle2019.meta"
TEST = "FSDKaggle2019.audio_test"

VOCABULARY = re.findall(
    r"\S+",
    """
Accelerating_and_revving_and_vroom Accordion Acoustic_guitar Applause Bark Bass_drum Bass_guitar
Bathtub_(filling_or_washing) Bicycle_bell Burping_and_eructation Bus Buzz Car_passing_by Cheering
Chewing_and_mastication Child_speech_and_kid_speaking Chink_and_clink Chirp_and_tweet Church_bell Clapping
Computer_keyboard Crackle Cricket Crowd Cupboard_open_or_close Cutlery_and_silverware Dishes_and_pots_and_pans
Drawer_open_or_close Drip Electric_guitar Fart Female_singing Female_speech_and_woman_speaking Fill_(with_liquid)
Finger_snapping Frying_(food) Gasp Glockenspiel Gong Gurgling Harmonica Hi-hat Hiss Keys_jangling Knock Male_singing
Male_speech_and_man_speaking Marimba_and_xylophone Mechanical_fan Meow Microwave_oven Motorcycle Printer Purr
Race_car_and_auto_racing Raindrop Run Scissors Screaming Shatter Sigh Sink_(filling_or_washing) Skateboard Slam Sneeze
Squeak Stream Strum Tap Tick-tock Toilet_flush Traffic_noise_and_roadway_noise Trickle_and_dribble Walk_and_footsteps
Water_tap_and_faucet Waves_and_surf Whispering Writing Yell Zipper_(clothing)
""",
)

CURATED = [
    ("fname", "labels", "freesound_id", "license"),
    ("ac9e7a91.wav", "Church_bell", "65579", "CC-BY-NC"),
    ("1d44b0bd.wav", "Whispering", "2", "CC0"),
    ("db198721.wav", "Applause,Crowd,Cheering", "32864", "CC-BY-NC"),
    ("f76181c4.wav", "Male_speech_and_man_speaking", "1", "CC0"),
    ("65ae847e.wav", "Frying_(food)", "65583", "CC Sampling+"),
]
NOISY = [
    ("fname", "labels", "flickr_video_URL", "license"),
    ("000b6cfb.wav", "Motorcycle", "http://www.flickr.com/videos/72067179@N00/4562502071/", "CC BY 2.0"),
    ("00116cd2.wav", "Marimba_and_xylophone,Glockenspiel", "http://www.flickr.com/videos/a/b/", "CC BY 2.0"),
]
TESTED = [
    ("fname", "labels", "usage", "freesound_id", "license"),
    ("d527f12d.wav", "Chewing_and_mastication", "Private", "327681", "CC-BY-NC"),
    ("4030a4f2.wav", "Cupboard_open_or_close", "Public", "180226", "CC-BY"),
    ("928c90aa.wav", "Hiss,Crackle", "Private", "155660", "CC0"),
    ("2d5dcc5d.wav", "Tap,Drawer_open_or_close", "Public", "245765", "CC0"),
]
KAGGLE = {
    "curated": (FSDKaggle2019Curated(), CURATED),
    "noisy": (FSDKaggle2019Noisy(), NOISY),
}

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


def write_csv(path, rows, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding=options.pop("encoding", "utf-8")) as stream:
        csv.writer(stream, **options).writerows(rows)


def kaggle_meta(data, curated=CURATED, noisy=NOISY, tested=TESTED, **options):
    write_csv(data / META / "train_curated_post_competition.csv", curated, **options)
    write_csv(data / META / "train_noisy_post_competition.csv", noisy, **options)
    write_csv(data / META / "test_post_competition.csv", tested, **options)
    write_csv(data / META / "vocabulary.csv", enumerate(VOCABULARY), **options)


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


@pytest.fixture(params=KAGGLE)
def kaggle(request, tmp_path, write_sounds):
    """Task, a small copy in which everything is there, its training folder, its training table."""
    task, table = KAGGLE[request.param]
    folder = f"FSDKaggle2019.audio_train_{request.param}"
    data = tmp_path / "copies" / "fsd"
    kaggle_meta(data)
    sounds = [f"{folder}/{row[0]}" for row in table[1:]] + [f"{TEST}/{row[0]}" for row in TESTED[1:]]
    write_sounds(data, dict.fromkeys(sounds, 0.1), rate=44_100)
    return task, data, folder, table


@pytest.fixture
def magna(tmp_path, write_sounds):
    """Small copy in which everything is there."""
    data = tmp_path / "copies" / "magna"
    data.mkdir(parents=True)
    annotations(data)
    return write_sounds(data, {f"mp3/{path}": 0.2 for _, path, _ in MAGNA})


def write_scene(file, labels, seed):
    """Write half a second of what is heard: a tone for Bark, noise for Hiss, both, or next to nothing."""
    rng = np.random.default_rng(seed)
    wave = 1e-3 * rng.standard_normal(8000)
    if "Bark" in labels:
        wave += 0.3 * np.sin(2 * np.pi * rng.uniform(300, 330) / 16000 * np.arange(8000))
    if "Hiss" in labels:
        wave += 0.1 * rng.standard_normal(8000)
    file.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(file, wave.clip(-1, 1), 16000)


def replace(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def refusal(task, data):
    with pytest.raises(DatasetError) as caught:
        task.read(data)
    message = str(caught.value)
    assert task.source in message
    assert task.layout in message
    return message


@pytest.mark.parametrize("task", [FSDKaggle2019Curated(), FSDKaggle2019Noisy(), MagnaTagATune()])
def test_facts(task):
    for metric in (task.metric, *task.other_metrics):
        metrics.check_name(metric)
    assert task.multilabel
    assert set(task.paper) == {"talnet", "weanet"}
    assert all(0 < score < 1 for score in task.paper.values())


class TestFSDKaggle2019:
    def test_reads_labels_and_parts(self, kaggle):
        task, data, folder, table = kaggle
        contents = task.read(data)
        good = [row for row in table[1:] if row[0] not in ("1d44b0bd.wav", "f76181c4.wav")]
        training = folder.removeprefix("FSDKaggle2019.audio_")
        assert contents.clips == [
            *(Clip(f"{folder}/{row[0]}", tuple(row[1].split(",")), training) for row in good),
            *(Clip(f"{TEST}/{row[0]}", tuple(row[1].split(",")), row[2]) for row in TESTED[1:]),
        ]
        assert max(len(clip.labels) for clip in contents.clips) > 1
        assert not contents.missing
        assert not contents.extra
        for clip in contents.clips:
            assert load_audio(data / clip.path, None)[0].shape[-1] > 1000

    def test_known_bad_clips_are_left_out_of_the_curated_set(self, kaggle):
        task, data, folder, _ = kaggle
        contents = task.read(data)
        note = "3 of 5 training clips are used, the others are known to be bad"
        if "noisy" in folder:
            assert not contents.excluded
            assert note not in contents.notes
        else:
            assert list(contents.excluded) == [f"{folder}/1d44b0bd.wav", f"{folder}/f76181c4.wav"]
            assert "no signal" in contents.excluded[f"{folder}/1d44b0bd.wav"]
            assert "label is wrong" in contents.excluded[f"{folder}/f76181c4.wav"]
            assert note in contents.notes
            (data / folder / "1d44b0bd.wav").unlink()
            assert not task.read(data).missing

    def test_a_test_clip_of_the_same_name_is_not_bad(self, kaggle):
        task, data, _, _ = kaggle
        kaggle_meta(data, tested=[*TESTED, ("1d44b0bd.wav", "Run", "Public", "1", "CC0")])
        assert task.read(data).clips[-1].path == f"{TEST}/1d44b0bd.wav"

    def test_says_what_is_missing_and_what_is_extra(self, kaggle, write_sounds):
        task, data, folder, table = kaggle
        (data / folder / table[1][0]).unlink()
        (data / TEST / "2d5dcc5d.wav").unlink()
        write_sounds(data, {f"{folder}/mine.wav": 0.1, f"{TEST}/sub/mine.flac": 0.1, "elsewhere.wav": 0.1})
        (data / TEST / "notes.txt").write_text("no sound")
        (data / TEST / "._4030a4f2.wav").write_bytes(b"resource fork")
        contents = task.read(data)
        assert contents.missing == [f"{folder}/{table[1][0]}", f"{TEST}/2d5dcc5d.wav"]
        assert contents.extra == [f"{folder}/mine.wav", f"{TEST}/sub/mine.flac"]
        assert set(contents.missing) < {clip.path for clip in contents.clips}

    def test_counts_what_shortened_metadata_lack(self, kaggle):
        task, data, folder, table = kaggle
        full = 19815 if "noisy" in folder else 4970
        incomplete = [note for note in task.read(data).notes if note.startswith("incomplete:")]
        assert len(incomplete) == 2
        assert f"{len(table) - 1} of {full} rows" in incomplete[0]
        assert "test_post_competition.csv has 4 of 4481 rows" in incomplete[1]

    def test_other_line_ends_and_a_byte_order_mark_change_nothing(self, kaggle):
        task, data, _, _ = kaggle
        before = task.read(data)
        kaggle_meta(data, lineterminator="\n", quoting=csv.QUOTE_ALL, encoding="utf-8-sig")
        assert task.read(data) == before

    def test_one_round_tuned_on_the_public_part(self, kaggle):
        task, data, _, _ = kaggle
        clips = task.read(data).clips[::-1]
        (only,) = task.rounds(clips)
        parts = {name: {clips[i].part for i in getattr(only, name)} for name in ("train", "validation", "test")}
        assert parts["train"] <= {"train_curated", "train_noisy"}
        assert (parts["validation"], parts["test"]) == ({"Public"}, {"Private"})
        used = np.concatenate([only.train, only.validation, only.test])
        assert sorted(used) == list(range(len(clips)))
        assert used.dtype == np.int64
        assert only.inner_folds is None

    def test_rounds_of_a_part_of_the_data(self, kaggle):
        task, data, _, _ = kaggle
        clips = task.read(data).clips
        (only,) = task.rounds([clip for clip in clips if clip.part != "Public"])
        assert only.validation is None
        assert len(only.train)
        assert len(only.test) == 2
        with pytest.raises(DatasetError, match=r"usage Private, found none among \d clips; add some"):
            task.rounds([clip for clip in clips if clip.part != "Private"])
        with pytest.raises(DatasetError, match=r"of audio_train_\w+, found none among 4 clips; add some"):
            task.rounds([clip for clip in clips if clip.part in ("Public", "Private")])
        with pytest.raises(DatasetError, match="add some"):
            task.rounds([])

    def test_end_to_end(self, kaggle, tmp_path, untrained_embedder):
        task, data, folder, _ = kaggle
        labels = ["Bark", "Hiss", "Bark,Hiss"] * 4
        rows = [(f"{i:08x}.wav", given, "Public" if i < 6 else "Private") for i, given in enumerate(labels)]
        bad = [("f76181c4.wav", "Hiss")]
        training = [("fname", "labels"), *(row[:2] for row in rows), *bad]
        kaggle_meta(data, curated=training, noisy=training, tested=[TESTED[0][:3], *rows])
        for i, (name, given, *_) in enumerate([*rows, *bad]):
            write_scene(data / folder / name, given, 2 * i)
            write_scene(data / TEST / name, given, 2 * i + 1)
        (data / TEST / rows[-1][0]).unlink()
        full = 19815 if "noisy" in folder else 4970
        with pytest.raises(DatasetError, match=rf"has 13 of {full} rows.*has 12 of 4481 rows.*1 of \d+ recordings"):
            evaluate(task, data, untrained_embedder, tmp_path / "results", progress=False)
        result = evaluate(task, data, untrained_embedder, tmp_path / "results", partial=True, progress=False)
        used = {"train_curated": 12} if "curated" in folder else {"train_noisy": 13}
        assert result["split_sizes"] == {**used, "Public": 6, "Private": 5}
        assert list(result["excluded"]) == ([] if "noisy" in folder else [f"{folder}/f76181c4.wav"])
        assert (result["missing"], result["partial"], result["metric"]) == (1, True, "lwlrap")
        assert set(result["other_metrics"]) == {"map", "mauc"}
        assert set(result["per_class"]) == {"Bark", "Hiss"}
        assert result["score"] > 0.9  # a tone, noise or both: even untrained layers tell them apart

    def test_names_the_right_folder(self, kaggle, tmp_path):
        task, data, folder, _ = kaggle
        for near in (data / META, data / TEST, data / folder, data.parent):
            assert f"it is in {data}, so give that folder" in refusal(task, near)
        assert "test_post_competition.csv is not there." in refusal(task, tmp_path)  # too far away to be looked for

    def test_other_layouts(self, kaggle, tmp_path):
        task, data, folder, _ = kaggle
        assert "no such folder" in refusal(task, tmp_path / "nothing")
        assert "it is a file" in refusal(task, data / META / "vocabulary.csv")
        (data / TEST).rename(data / "audio_test")
        assert f"no folder {TEST}; extract {TEST}.zip there" in refusal(task, data)
        (data / "audio_test").rename(data / TEST)
        (data / folder).rename(data / "train")
        message = refusal(task, data)
        assert f"no folder {folder}; " in message
        assert ("zip -s 0" if "noisy" in folder else f"extract {folder}.zip there") in message
        (data / folder).mkdir()
        (data / "train").rename(data / folder / folder)
        assert f"move {folder}/{folder} to {folder}" in refusal(task, data)

    def test_metadata_one_folder_too_deep(self, kaggle):
        task, data, _, _ = kaggle
        (data / META).rename(data / "moved")
        (data / META).mkdir()
        (data / "moved").rename(data / META / META)
        assert f"move {META}/{META} to {META}" in refusal(task, data)

    def test_the_copy_of_the_competition(self, kaggle):
        task, data, _, _ = kaggle
        (data / "train_curated.csv").write_text("fname,labels\n")
        assert "without test labels; get the later Zenodo release" in refusal(task, data)

    @pytest.mark.parametrize(
        ("row", "problem"),
        [
            (
                ("a.wav", "Dog", "Public"),
                r"line 6 of .*test_post.* not in vocabulary.csv: \['Dog'\]; fetch the file again",
            ),
            (("a.wav", "Run;Yell", "Public"), r"not in vocabulary.csv: \['Run;Yell'\]"),
            (("a.wav", "", "Public"), r"not in vocabulary.csv: \[''\]"),
            (("a.wav", "Run,Yell,Run", "Public"), "line 6 .* has a label twice: Run,Yell,Run"),
            (("a.wav", "Run", "public"), "usage 'public' instead of Public or Private"),
            (("928c90aa.wav", "Run", "Public"), "names 928c90aa.wav a second time"),
            (("../a.wav", "Run", "Public"), "'../a.wav', which is not a file name"),
            (("", "Run", "Public"), "'', which is not a file name"),
            (("a.wav",), "line 6 .* is cut short; fetch it again"),
        ],
    )
    def test_damaged_rows(self, kaggle, row, problem):
        task, data, _, _ = kaggle
        kaggle_meta(data, tested=[*TESTED, row])
        assert re.search(problem, refusal(task, data))

    def test_damaged_training_rows(self, kaggle):
        task, data, _, table = kaggle
        damaged = [*table, ("a.wav", "Dog", "1", "CC0")]
        kaggle_meta(data, curated=damaged, noisy=damaged)
        assert re.search(rf"line {len(damaged)} of .*train_\w+_post_.* not in vocabulary", refusal(task, data))

    def test_damaged_tables(self, kaggle):
        task, data, _, table = kaggle
        file = data / META / "test_post_competition.csv"
        kaggle_meta(data, tested=[row[:2] for row in TESTED])
        assert "lacks the columns ['usage'], it has ['fname', 'labels']" in refusal(task, data)
        kaggle_meta(data, tested=TESTED[:1])
        assert "has 0 rows, the release has 4481; fetch it again" in refusal(task, data)
        kaggle_meta(data, tested=[TESTED[0], *((f"{i:08x}.wav", "Run", "Public") for i in range(4482))])
        assert "has 4482 rows, the release has 4481" in refusal(task, data)
        file.write_bytes(b"fname,labels,usage\n\xff\xfe\n")
        assert "cannot be read" in refusal(task, data)
        kaggle_meta(data)
        for name in ("train_curated_post_competition.csv", "train_noisy_post_competition.csv"):
            (data / META / name).unlink()
        assert f"train_{task.name.partition('-')[2]}_post_competition.csv is not there" in refusal(task, data)
        assert len(table) > 1

    @pytest.mark.parametrize(
        ("rows", "problem"),
        [
            ([("index", "label"), *enumerate(VOCABULARY)], "has 81 with 81 names, the first 'index,label'; fetch it"),
            (list(enumerate(VOCABULARY[:-1])), "has 79 with 79 names"),
            ([(name,) for name in VOCABULARY], "has 80 with 0 names"),
            (list(enumerate([*VOCABULARY[:-1], "Yell"])), "has 80 with 79 names"),
            ([], "has 0 with 0 names"),
        ],
    )
    def test_damaged_vocabulary(self, kaggle, rows, problem):
        task, data, _, _ = kaggle
        write_csv(data / META / "vocabulary.csv", rows)
        assert problem in refusal(task, data)

    def test_no_vocabulary(self, kaggle):
        task, data, _, _ = kaggle
        (data / META / "vocabulary.csv").write_bytes(b"\xff\xfe")
        assert "vocabulary.csv cannot be read" in refusal(task, data)
        (data / META / "vocabulary.csv").unlink()
        assert f"vocabulary.csv is not there; extract {META}.zip again" in refusal(task, data)

    @pytest.mark.shared
    @pytest.mark.parametrize(("name", "rows", "bad"), [("curated", 4970, 6), ("noisy", 19815, 0)])
    def test_full_metadata(self, tmp_path, name, rows, bad):
        source = SHARED / "FSDKaggle2019"
        if not source.is_dir():
            pytest.skip(f"needs {source}")
        task = KAGGLE[name][0]
        folder = f"FSDKaggle2019.audio_train_{name}"
        (tmp_path / folder).mkdir()
        (tmp_path / TEST).mkdir()
        (tmp_path / META).symlink_to(source)
        contents = task.read(tmp_path)
        assert Counter(clip.part for clip in contents.clips) == {
            f"train_{name}": rows - bad,
            "Public": 1120,
            "Private": 3361,
        }
        assert len(contents.clips) == task.clips == rows - bad + 4481
        assert len(contents.excluded) == bad
        assert contents.missing == [clip.path for clip in contents.clips]
        assert not any(note.startswith("incomplete:") for note in contents.notes)
        (only,) = task.rounds(contents.clips)
        assert (len(only.train), len(only.validation), len(only.test)) == (rows - bad, 1120, 3361)
        for indices in (only.train, only.validation, only.test):
            assert {label for i in indices for label in contents.clips[i].labels} == set(VOCABULARY)
        assert task.classes == len(VOCABULARY)
        with (source / f"train_{name}_post_competition.csv").open(newline="") as stream:
            labels = sum(row["labels"].count(",") + 1 for row in csv.DictReader(stream))
        assert sum(len(contents.clips[i].labels) for i in only.train) == labels - bad  # bad ones have one label each


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
