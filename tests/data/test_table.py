import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from baoseg.core.errors import DataError
from baoseg.core.text import tidy
from baoseg.data.table import read
from baoseg.data.table_checks import refuse
from baoseg.data.table_lines import parse_labels


def write(root, content, classes=None):
    root.mkdir(parents=True, exist_ok=True)
    (root / "labels.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    if classes is not None:
        (root / "classes.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    return root


def cells(*labels):
    """A table of images with these cells."""
    return "\n".join(["image,labels", *(f"{number}.png,{cell}" for number, cell in enumerate(labels))])


def labels_of(root):
    table = read(root)
    refuse(table.problems)
    return [line.labels for line in table.lines]


def refused(root, *words):
    with pytest.raises(DataError) as error:
        refuse(read(root).problems)
    message = str(error.value)
    assert "\n" not in message and ";" in message and str(root) in message
    for word in words:
        assert word in message


# ---------------------------------------------------------------------------------------------- what labels a cell has


def test_labels_by_hand():
    assert parse_labels(["dog cat", " dog ", "", "dog  bird"]) == [["dog", "cat"], ["dog"], [], ["dog", "bird"]]
    assert parse_labels(["dog;cat", "dog ; bird;", ";"]) == [["dog", "cat"], ["dog", "bird"], []]
    assert parse_labels(["dog;cat", "cat dog"]) == [["dog", "cat"], ["cat", "dog"]]
    assert parse_labels(["traffic light;car", "traffic light"]) == [["traffic light", "car"], ["traffic light"]]
    assert parse_labels(["dog;car", "traffic light"]) == [["dog", "car"], ["traffic light"]]
    light = ["traffic light", "car"]
    assert parse_labels(["traffic light", "car", "traffic light;car"], light) == [light[:1], light[1:], light]
    assert parse_labels(["dog cat"], ["dog", "cat"]) == [["dog", "cat"]]


words = st.text(st.characters(categories=["L", "N"]), min_size=1, max_size=6).map(tidy).filter(str)


@settings(deadline=None, max_examples=40)
@given(data=st.data(), classes=st.lists(words, min_size=1, max_size=6, unique=True))
def test_labels_round_trip(data, classes):
    rows = data.draw(st.lists(st.lists(st.sampled_from(classes), unique=True), max_size=6))
    for separator in (" ", ";", "; "):
        fields = [separator.join(row) for row in rows]
        assert parse_labels(fields, classes) == rows
        if separator == " ":
            assert parse_labels(fields) == rows


@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_names_with_spaces_round_trip_between_semicolons(data):
    names = st.lists(words, min_size=1, max_size=3).map(" ".join)
    classes = data.draw(st.lists(names, min_size=1, max_size=6, unique=True))
    rows = data.draw(st.lists(st.lists(st.sampled_from(classes), unique=True), max_size=6))
    assert parse_labels(["".join(f"{name};" for name in row) for row in rows]) == rows
    assert parse_labels([";".join(row) for row in rows if len(row) != 1], classes) == [
        row for row in rows if len(row) != 1
    ]
    assert parse_labels(classes, classes) == [[name] for name in classes]


def test_a_column_of_single_labels_keeps_spaces(tmp_path):
    fields = ["great tit", "dining table; sofa", "", " great  tit "]
    assert parse_labels(fields, single=True) == [["great tit"], ["dining table", "sofa"], [], ["great tit"]]
    text = "Image , LABEL\na.png,great tit\nb.png,wren\n"
    assert labels_of(write(tmp_path, text)) == [("great tit",), ("wren",)]


def test_names_are_given_back_as_the_classes_spell_them():
    assert parse_labels(["mo\u0308we; dining\u00a0table"], ["möwe", "dining  table"]) == [["möwe", "dining  table"]]


# -------------------------------------------------------------------------------- a separator that is none (issue, C)


SEVERAL = ["cat,dog", "cat, dog", "cat ,dog", "cat|dog", "cat | dog", "cat/dog", "cat+dog", "cat & dog", "cat，dog"]


@pytest.mark.parametrize("classes", [None, ["cat", "dog"]])
@pytest.mark.parametrize("cell", SEVERAL)
def test_several_classes_in_one_name(tmp_path, cell, classes):
    root = write(tmp_path, cells("cat", "dog", f'"{cell}"'), classes)
    refused(root, f"labels.csv, line 4: {cell}", "separate labels by semicolons: cat; dog")


@pytest.mark.parametrize("cell", ["cat:dog", "cat-dog", "cat_dog", "cat and dog", "cat or dog", "cat > dog", "cat·dog"])
def test_several_classes_in_one_name_that_may_be_a_class(tmp_path, cell):
    refused(write(tmp_path, cells("cat", "dog", cell)), f"line 4: {cell}", "semicolons: cat; dog, or name the class in")
    assert labels_of(write(tmp_path / "1", cells("cat;", "dog;", f"{cell};"), ["cat", "dog", cell]))[2] == (cell,)
    assert labels_of(write(tmp_path / "2", cells("cat;", "bird;", f"{cell};")))[2] == (cell,)


def test_parts_that_occur_in_other_names_only(tmp_path):
    refused(write(tmp_path, cells('"cat,dog"', '"dog,bird"')), "line 2: cat,dog", "(and 1 more)")
    refused(write(tmp_path / "1", cells("cat", '"cat,wild"')), "line 3: cat,wild", "or name the class in classes.txt")
    assert labels_of(write(tmp_path / "1", cells("cat;", '"cat,wild;"'), ["cat", "cat,wild"]))[1] == ("cat,wild",)


def test_marks_in_the_names_that_marks_join(tmp_path):
    root = write(tmp_path, cells("C++", "ex-cat", "C++/ex-cat"))
    refused(root, "line 4: C++/ex-cat", "separate labels by semicolons: C++; ex-cat")
    refused(write(tmp_path / "1", cells("a.b", "ex-cat", "1_2", "ex-cat-a.b-1_2")), "line 5", "ex-cat; a.b; 1_2")
    assert labels_of(write(tmp_path / "2", cells("C++", "cat", "C++/dog")))[2] == ("C++/dog",)


def test_a_comma_at_the_end(tmp_path):
    refused(write(tmp_path, cells("cat", '"cat,"')), "line 3: cat, has a separator", "semicolons: cat,")


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("\"['cat', 'dog']\"", "cat; dog"),
        ('"[""cat"",""dog""]"', "cat; dog"),
        ("['cat']", "cat"),
        ("[]", "nothing"),
        ("\"('cat', 'dog')\"", "cat; dog"),
        ("['cat' 'hot dog']", "cat; hot dog"),
        ('"{cat, dog}"', "cat; dog"),
        ("'cat'", "cat"),
        ("'cat'; 'dog'", "cat"),
        ("“cat”", "cat"),
        ('cat"', "cat"),
        ('dog; cat"', "dog; cat"),
        ('"""cat"', "cat"),
    ],
)
def test_lists_as_programs_print_them(tmp_path, cell, meant):
    refused(write(tmp_path, cells("cat", "dog", cell)), "line 4", "brackets or quotes", f"write {meant}")


@pytest.mark.parametrize(
    "name",
    ["and/or", "R+B", "black & white", "tench, Tinca tinca", 'pipe 5"', "<b>x</b>", "a (b)", "#1", '5" pipe', "C++"],
)
def test_names_with_marks_stay_legal(tmp_path, name):
    quoted = '"' + name.replace('"', '""') + ';"'
    assert labels_of(write(tmp_path, cells("cat;", quoted))) == [("cat",), (name,)]


def test_words_that_are_classes_one_after_the_other(tmp_path):
    refused(write(tmp_path, cells("traffic light; car", "traffic light car")), "line 3", "traffic light; car")
    both = labels_of(write(tmp_path / "1", cells("hot dog; hot", "dog", "hot dog")))
    assert both == [("hot dog", "hot"), ("dog",), ("hot dog",)]  # named whole between semicolons


def test_a_name_that_holds_another_class_and_may_be_two(tmp_path):
    refused(
        write(tmp_path, cells("dog; car", "dog bird")),
        "line 3: dog bird may be one name or several names, because dog is",
        "'dog bird;'",
    )
    refused(
        write(tmp_path, cells("traffic light; car", "red Traffic light")), "line 3", "because traffic light is a class"
    )
    for number, right in enumerate(
        (["dog; car", "dog bird;"], ["dog; car", "dogbird bird"], ["dog bird; car", "dog bird"])
    ):
        assert labels_of(write(tmp_path / str(number), cells(*right)))[1] in {("dog bird",), ("dogbird bird",)}
    assert labels_of(write(tmp_path / "list", cells("dog; car", "dog bird"), ["dog", "car", "dog bird"]))[1] == (
        "dog bird",
    )
    assert labels_of(write(tmp_path / "label", "image,label\na.png,dog; car\nb.png,dog bird\n"))[1] == ("dog bird",)


def test_a_tab_is_a_space(tmp_path):
    assert labels_of(write(tmp_path, cells("cat", "dog", "cat\tdog")))[2] == ("cat", "dog")


# ------------------------------------------------------------------------------------------------ one form of a name


def test_unicode_and_spaces(tmp_path):
    forms = ["möwe", unicodedata.normalize("NFD", "möwe"), "möwe\u200b", "\ufeffmöwe", "mö\u200ewe"]
    root = write(tmp_path, cells(*forms))
    assert read(root).classes == ("möwe",) and set(labels_of(root)) == {("möwe",)}
    spaces = ["dining table;", "dining  table;", "dining\u00a0table;", "dining\u3000table ;"]
    assert read(write(tmp_path / "1", cells(*spaces))).classes == ("dining table",)
    listed = write(tmp_path / "2", cells(*forms), [unicodedata.normalize("NFD", "möwe")])
    assert read(listed).classes == ("möwe",) and set(labels_of(listed)) == {("möwe",)}


def test_letter_case(tmp_path):
    refused(write(tmp_path, cells("Dog", "cat", "dog")), "Dog and dog differ in letter case only")
    refused(
        write(tmp_path / "1", cells("Dog"), ["dog", "cat"]), "line 2: Dog (of 0.png)", "write dog as in classes.txt"
    )
    refused(write(tmp_path / "2", cells("dog"), ["dog", "Dog"]), "classes.txt: dog and Dog differ")


def test_words_that_are_joined_otherwise(tmp_path):
    root = write(tmp_path, cells("dining table;", "dining_table;", "cat;", "Dining-Table;"))
    refused(root, "Dining-Table and dining table and dining_table differ in spaces, hyphens, underscores")
    refused(write(tmp_path / "1", cells("cat", "dog", "_cat_")), "_cat_ and cat differ")
    refused(write(tmp_path / "4", cells("cat", "dog", "ｃａｔ")), "cat and ｃａｔ differ", "or forms of letters only")
    assert len(labels_of(write(tmp_path / "2", cells("ex-cat;", "ex cat;"), ["ex-cat", "ex cat"]))) == 2
    assert len(labels_of(write(tmp_path / "3", cells("cat_1", "cat_2", "cat1")))) == 3


def test_backslashes_are_slashes_unless_a_file_has_them(tmp_path):
    root = write(tmp_path, "image,labels\nrooms\\a.png,cat\nrooms\\b.png,cat\n")
    (root / "rooms\\b.png").write_bytes(b"")
    assert [line.path for line in read(root).lines] == ["rooms/a.png", "rooms\\b.png"]
    refused(write(tmp_path / "1", "image,labels\nC:\\a.png,cat\n"), "line 2: C:/a.png lies outside")


# ---------------------------------------------------------------------------------------- the background is no class

BACKGROUNDS = [
    *("background", "__background__", "_background_", "__ignore__", "Background", "BACKGROUND", "bg", "None"),
    *("0: background", "0 background", "0,background", "background (0)", "<bg>", "unlabeled", "nan", "?", "''"),
    *("N/A", "-", "--"),
]


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_the_background_under_its_names(tmp_path, name):
    root = write(tmp_path, cells("cat", "dog"), ["cat", name, "dog"])
    refused(root, f"classes.txt, line 2: {name} is the background, which always has index 0", "delete this line")
    root = write(tmp_path / "1", cells("cat;", f'"{name};"'))
    refused(root, f"labels.csv, line 3: {name} is the background", "an empty cell")


@pytest.mark.parametrize(
    "name", ["none of these", "backgrounds", "bg music", "void", "null object", "nonesuch", "other"]
)
def test_real_classes_that_sound_like_it(tmp_path, name):
    assert read(write(tmp_path, cells("cat"), [name, "cat"])).problems == []
    assert labels_of(write(tmp_path / "1", cells("cat;", f"{name};")))[1] == (name,)


def test_numbered_lines_of_classes(tmp_path):
    root = write(tmp_path, cells("cat", "dog"), ["1: cat", "2: dog"])
    refused(
        root,
        "cat (of 0.png) is not a class of classes.txt",
        "write the line '1: cat' of classes.txt without the number",
    )
    assert labels_of(write(tmp_path / "1", cells("001.Albatross"), ["001.Albatross"])) == [("001.Albatross",)]


# --------------------------------------------------------------------------------------------------------- strict CSV


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('image,labels\na.png,cat\nb.png,"dog\nc.png,cat\n', 3),  # swallows the file
        ('image,labels\na.png,"cat\nb.png,dog"\n', 2),  # swallows a line
        ('image,labels\n"a.png,cat\n', 2),
        ('image,labels\na.png,"cat"dog\n', 2),
        ('image,labels\r\na.png,cat\r\n"b.png,dog\r\n', 3),
        ('"image,labels\na.png,cat\n', 1),
    ],
)
def test_quotes_that_do_not_close(tmp_path, text, line):
    refused(write(tmp_path, text), f"labels.csv, line {line}: a quote is not closed")


@pytest.mark.parametrize("mark", ["\0", "\x07", "\x85"])
def test_characters_that_are_no_text(tmp_path, mark):
    for name, text in (("labels.csv", cells("dog", f"ca{mark}t")), ("classes.txt", f"dog\ncat\nca{mark}t\n")):
        root = write(tmp_path, cells("dog"), ["dog"])
        (root / name).write_text(text, encoding="utf-8")
        refused(root, f"{name}, line 3: has the character {mark!r}", "UTF-8")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "cp1252"])
def test_other_encodings(tmp_path, encoding):
    refused(write(tmp_path, cells("möwe").encode(encoding)), "labels.csv", "save the file as CSV in UTF-8")


@pytest.mark.parametrize(
    "text",
    [
        "image,labels\na b.png,cat dog\n",
        "\ufeffimage,labels\r\na b.png,cat dog\r\n",
        "image,labels\ra b.png,cat dog",
        '"image" , "labels"\n"a b.png" , "cat dog"\n',
        "IMAGE,Labels\n a b.png ,  cat   dog  \n,\n\n   \n , \n",
        'image,labels\n"a  b.png",cat;dog;\n',
    ],
)
def test_forms_that_spreadsheets_write(tmp_path, text):
    (line,) = read(write(tmp_path, text)).lines
    assert (line.name, line.labels, line.number) == ("a b", ("cat", "dog"), 2)


def test_quotes_inside(tmp_path):
    text = 'image,labels\n"a, ""b"".png","5"" pipe; x"\nc.png,5" pipe\n'
    first, second = read(write(tmp_path, text)).lines
    assert (first.path, first.labels, second.labels) == ('a, "b".png', ('5" pipe', "x"), ('5" pipe',))


def test_the_folder_is_asked_for(tmp_path):
    write(tmp_path, cells("cat"))
    with pytest.raises(DataError, match=r"labels\.csv: is a file; give the folder of labels\.csv"):
        read(tmp_path / "labels.csv")


name = st.text(st.characters(categories=["L", "N"], max_codepoint=0x24F), min_size=2, max_size=6).map(
    lambda text: unicodedata.normalize("NFC", text)
)
names_of_classes = name.filter(lambda text: text.casefold() not in ("bg", "nan", "none", "null", "ignore"))


@settings(deadline=None, max_examples=60)
@given(data=st.data(), names=st.lists(names_of_classes, min_size=2, max_size=5, unique_by=str.casefold))
def test_nothing_is_silent(tmp_path_factory, data, names):
    """Random tables with a random defect are read as they are meant, or refused."""
    rows = data.draw(st.lists(st.lists(st.sampled_from(names), unique=True, min_size=1), min_size=2, max_size=6))
    rows += [[one] for one in names]
    join = data.draw(st.sampled_from([";", "; ", ",", ", ", "|", "/", "+", "\t", " ", ";\u00a0", "\u200b;", "\n"]))
    form = data.draw(st.sampled_from(["NFC", "NFD"]))
    written = ['"' + unicodedata.normalize(form, join.join(row)) + '"' for row in rows]
    root = write(tmp_path_factory.mktemp("t"), cells(*written))
    try:
        assert [set(labels) for labels in labels_of(root)] == [set(row) for row in rows]
    except DataError:
        assert join in (",", ", ", "|", "/", "+", "\n")
