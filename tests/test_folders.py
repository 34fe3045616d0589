"Folders of images as people have them: which layout is taken for what, and what is said."
import io, os, shutil, zlib

import pytest, torch
from PIL import Image

from vit_course.data import DataError, get_dls, load_folder, load_splits, make_dls
from vit_course.tools import image_files
from vit_course.tools.commands import vit_doctor, vit_train
from vit_course.tools.image_files import image_paths, open_image


def tree(root, **counts):
    "Write `counts` images into each folder, each image of a colour of its own."
    for name, n in counts.items():
        folder = root/name
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(n):
            crc = zlib.crc32(os.fsencode(name))
            colour = (crc % 256, crc // 256 % 256, i)
            Image.new('RGB', (6, 6), colour).save(folder/f'{len(name)}_{i}.png')
    return root


def split(train='train', test='test', valid=None, classes=('cat', 'dog')):
    "Counts for a layout with these names: 10 images a class, 3 in the others."
    sizes = {train: 10, test: 3, valid: 4}
    return {f'{s}/{c}': n for s, n in sizes.items() if s for c in classes}


def load(root): return load_folder(root, (6, 6))


def refused(root):
    "The complaint about a folder, one printable line."
    with pytest.raises(DataError) as e: load(root)
    assert str(e.value).isprintable() and str(root) in str(e.value)
    return str(e.value)


def sizes(s): return len(s.train), len(s.valid), len(s.test)


# ------------------------------------------------------------------- names of splits

@pytest.mark.parametrize('train', ['train', 'Train', 'TRAIN', 'training', 'Training', 'train '])
@pytest.mark.parametrize('test', ['test', 'Test', 'testing', 'TESTING', ' Testing'])
def test_train_and_test_by_any_name(tmp_path, train, test):
    s = load(tree(tmp_path, **split(train, test)))
    assert s.classes == ['cat', 'dog'] and sizes(s) == (18, 2, 6)
    odd = [n for n in (train, test) if n not in ('train', 'test')]
    assert len(s.notes) == bool(odd) and all(f'{n}/ is taken as' in s.notes[0] for n in odd)


@pytest.mark.parametrize('valid', ['valid', 'val', 'validation', 'dev', 'Val', 'VALIDATION'])
def test_valid_by_any_name(tmp_path, valid):
    s = load(tree(tmp_path, **split('train', 'test', valid)))
    assert sizes(s) == (20, 8, 6)
    assert s.notes == ([] if valid == 'valid' else
                       [f'in {tmp_path}, {valid}/ is taken as valid'])


def test_keras_has_no_test(tmp_path):
    s = load(tree(tmp_path, **split('train', None, 'validation')))
    assert sizes(s) == (16, 8, 4) and 'validation/ is taken as valid' in s.notes[0]


def test_other_names_give_the_same_sets(tmp_path):
    a = load(tree(tmp_path/'a', **split('train', 'test', 'valid')))
    for old, new in zip(('train', 'valid', 'test'), ('Training', 'Validation', 'Testing')):
        (tmp_path/'b').mkdir(exist_ok=True)
        (tmp_path/'a'/old).rename(tmp_path/'b'/new)
    b = load(tmp_path/'b')
    for x, y in zip((a.train, a.valid, a.test), (b.train, b.valid, b.test)):
        assert x.images.equal(y.images) and x.labels.equal(y.labels)


@pytest.mark.parametrize('two', [('val', 'validation'), ('test', 'testing'), ('valid', 'dev'),
                                 ('train', 'Training'), ('train', 'Train'), ('test', 'test ')])
def test_two_folders_for_one_split(tmp_path, two):
    root = tree(tmp_path, **split() | {f'{n}/{c}': 5 for n in two for c in ('cat', 'dog')})
    if not set(two) <= set(os.listdir(root)): pytest.skip('this disk knows no such names')
    message = refused(root)
    assert 'two folders' in message and all(f'{n}/' in message for n in two)


def test_unused_folders_are_named(tmp_path):
    s = load(tree(tmp_path, **split(), **{'extra': 2, 'holdout/cat': 2, 'annotations': 0}))
    assert s.notes == [f'in {tmp_path}, not used: annotations/, extra/, holdout/']


def test_a_usual_folder_has_no_notes(tmp_path):
    assert load(tree(tmp_path/'a', **split(valid='valid'))).notes == []
    assert load(tree(tmp_path/'b', cat=9, dog=9, emu=9)).notes == []


# -------------------------------------------------------- classes named like a split

def test_trains_and_buses(tmp_path):
    s = load(tree(tmp_path, train=10, bus=10, car=10))
    assert s.classes == ['bus', 'car', 'train'] and sum(sizes(s)) == 30
    assert s.notes == [f"{tmp_path/'train'} holds images and no folders: taken as a class"]


@pytest.mark.parametrize('classes', [('bus', 'train'), ('test', 'train'), ('valid', 'invalid'),
                                     ('train', 'test', 'val')])
def test_such_classes_inside_of_a_split(tmp_path, classes):
    s = load(tree(tmp_path, **split(classes=classes)))
    assert s.classes == sorted(classes) and len(s.test) == 3*len(classes) and not s.notes


@pytest.mark.parametrize('flat', [dict(train=9, test=9), dict(train=9, test1=9),
                                  dict(train=9, bus=9, test=9), dict(Train=9, validation=9),
                                  dict(test=9, control=9), dict(valid=9, invalid=9)])
def test_images_without_class_folders_are_no_task(tmp_path, flat):
    "The contest's train/*.jpg and test1/*.jpg; and a class that might be a test set."
    assert 'train/' in refused(tree(tmp_path, **flat))
    for name in flat:                               # as all of these messages advise
        (tmp_path/'in'/'train').mkdir(parents=True, exist_ok=True)
        (tmp_path/name).rename(tmp_path/'in'/'train'/name)
    assert load(tmp_path/'in').classes == sorted(flat)


# ----------------------------------------------- splits under names that nobody knows

@pytest.mark.parametrize('names', [('fold1', 'fold2'), ('A', 'B', 'C'), ('images', 'masks'),
                                   ('training_set', 'test_set'), ('seg_train', 'seg_test'),
                                   ('TrainData', 'TestData'), ('train1', 'val1')])
@pytest.mark.parametrize('between', ['', 'data/', '{}/'])
def test_unknown_splits_are_refused(tmp_path, names, between):
    root = tree(tmp_path, **{f'{n}/{between.format(n)}{c}': 5 for n in names
                             for c in ('cat', 'dog')})
    message = refused(root)
    assert 'look like splits' in message and all(f'{n}/' in message for n in names)
    assert '--data_dir' not in message              # which of them, nobody knows


def test_contest_with_a_wrapper_around_each(tmp_path):
    root = tree(tmp_path, **{f'asl_train/asl_train/{c}': 5 for c in 'ABC'},
                **{'asl_test/asl_test': 3})
    assert f"give --data_dir {root/'asl_train'}" in refused(root)


def test_classes_above_the_splits(tmp_path):
    root = tree(tmp_path, **{f'{c}/{s}': 5 for c in ('cat', 'dog') for s in ('train', 'test')})
    assert 'put the splits on top' in refused(root)


def test_images_of_a_class_in_folders_of_its_own(tmp_path):
    s = load(tree(tmp_path/'a', **{'cat/day': 5, 'cat/dusk/late': 5, 'dog/night': 10}))
    assert s.classes == ['cat', 'dog'] and sum(sizes(s)) == 20
    assert len(s.notes) == 1 and 'cat/day/' in s.notes[0] and 'dog/night/' in s.notes[0]
    s = load(tree(tmp_path/'b', **{'cat/images': 9, 'dog/images': 9}))      # Tiny ImageNet
    assert s.classes == ['cat', 'dog'] and len(s.notes) == 1
    s = load(tree(tmp_path/'c', **{'cat/day': 5, 'cat/night': 5, 'dog/day': 5, 'dog/night': 5,
                                   'dog': 2}))
    assert s.classes == ['cat', 'dog'] and sum(sizes(s)) == 22


def test_the_same_folders_in_each_class_need_train(tmp_path):
    counts = {f'{c}/{t}': 5 for c in ('cat', 'dog') for t in ('day', 'night')}
    message = refused(tree(tmp_path/'a', **counts))
    assert 'put all class folders into a folder train/' in message
    s = load(tree(tmp_path/'b', **{f'train/{k}': n for k, n in counts.items()}))
    assert s.classes == ['cat', 'dog'] and sum(sizes(s)) == 20 and len(s.notes) == 1


# ------------------------------------------------------------------ one level too high

@pytest.mark.parametrize('inner, counts', [
    ('PetImages', {'Cat': 9, 'Dog': 9}), ('dataset', split()),
    ('dataset', split('Training', 'TEST')), ('a/b', {'Cat': 9, 'Dog': 9}), ('a/b/c', split())])
@pytest.mark.parametrize('beside', [{}, {'docs': 0}, {'__MACOSX/PetImages/Cat': 2}])
def test_the_inner_folder_is_named(tmp_path, inner, counts, beside):
    root = tree(tmp_path, **{f'{inner}/{k}': n for k, n in counts.items()}, **beside)
    message = refused(root)
    assert message.endswith(f'give --data_dir {root/inner}')
    load(message.split('--data_dir ')[-1])          # the advice is right


def test_an_inner_folder_in_train(tmp_path):
    root = tree(tmp_path, **split('train/train', 'test/test'))
    assert f"move these folders to {root/'train'}" in refused(root)


def test_no_advice_where_two_would_do_or_none(tmp_path):
    assert '--data_dir' not in refused(tree(tmp_path/'a', cat=9))
    root = tree(tmp_path/'b', **{'x/y/Cat': 5, 'x/y/Dog': 5, 'x/z/Emu': 5, 'x/z/Fox': 5})
    assert '--data_dir' not in refused(root/'x'/'y'/'Cat')


# ------------------------------------------------- what is no class, and has no labels

@pytest.mark.parametrize('name', ['__MACOSX', '.ipynb_checkpoints', '@eaDir', '.git',
                                  '$RECYCLE.BIN', '__pycache__'])
def test_folders_of_the_system(tmp_path, name):
    places = (name, f'train/{name}', f'test/{name}', f'train/cat/{name}',
              f'train/cat/{name}/more', f'test/dog/{name}/.hidden')
    s = load(tree(tmp_path, **split(), **{p: 2 for p in places}))
    assert s.classes == ['cat', 'dog'] and sizes(s) == (18, 2, 6) and not s.notes
    s = load(tree(tmp_path/'flat', cat=9, dog=9, **{name: 2, f'dog/{name}': 2}))
    assert s.classes == ['cat', 'dog'] and sum(sizes(s)) == 18 and not s.notes


@pytest.mark.parametrize('name', ['test', 'val', 'Testing'])
def test_images_without_labels_are_left_out(tmp_path, name):
    s = load(tree(tmp_path, **split(test=None), **{name: 7}))
    assert sum(sizes(s)) == 20 and min(sizes(s)) > 0
    assert '7 images without class folders, so without labels' in s.notes[-1]


def test_a_test_folder_of_another_shape(tmp_path):
    message = refused(tree(tmp_path/'a', **split(test=None), **{'test/unknown': 5}))
    assert 'unknown' in message and 'no labels' in message
    message = refused(tree(tmp_path/'b', **split(test=None), **{'test': 0}))
    assert 'no images in class folders' in message and 'more' not in message
    message = refused(tree(tmp_path/'c', **split(), **{'test/emu': 5}))
    assert message.endswith('emu')                  # a class by mistake, not a set without labels


def test_train_without_class_folders(tmp_path):
    assert 'no class folders' in refused(tree(tmp_path, train=5, **{'test/cat': 5, 'test/dog': 5}))


def test_images_beside_the_class_folders(tmp_path):
    s = load(tree(tmp_path, **split(), **{'train': 2, '.': 1}))
    assert sizes(s) == (18, 2, 6) and len(s.notes) == 2
    assert '1 images outside' in s.notes[0] and '2 images outside' in s.notes[1]


# ------------------------------------------------------------------ files that are not read

HEIC = b'\0\0\0\x18ftypheic\0\0\0\0mif1heic'          # how a photograph of a phone begins


def write(root, data=b'x', **counts):
    "Write files of one ending, as cat_heic=3: 3 files cat/0.heic and so on."
    for name, n in counts.items():
        folder, _, ending = name.rpartition('_')
        (root/folder).mkdir(parents=True, exist_ok=True)
        for i in range(n): (root/folder/f'{i}.{ending}').write_bytes(data)


@pytest.fixture
def without_heif(monkeypatch):
    "As where pillow-heif is not installed."
    monkeypatch.setattr(image_files, 'FORMATS', [f for f in image_files.FORMATS if f != 'HEIF'])
    monkeypatch.setattr(image_files, 'SUFFIXES', image_files.SUFFIXES - {'.heic', '.heif', '.hif'})


@pytest.mark.parametrize('ending', ['heic', 'HEIC', 'heif', 'hif'])
def test_photographs_of_phones(tmp_path, without_heif, ending):
    "4 JPEG files beside 20 of the phone's own format."
    root = tree(tmp_path, **{'train/cat': 4, 'train/dog': 4})
    write(root/'train', HEIC, **{f'cat_{ending}': 20, f'dog_{ending}': 20})
    s = load(root)
    assert sum(sizes(s)) == 8 and len(s.notes) == 1
    assert f'40 .{ending.lower()}' in s.notes[0] and "pip install 'vit_course[heif]'" in s.notes[0]
    for c in ('cat', 'dog'):
        for f in (root/'train'/c).glob('*.png'): f.unlink()
    assert f'40 .{ending.lower()}' in refused(root) and 'vit_course[heif]' in refused(root)


@pytest.mark.parametrize('name', ['x.heic', 'x.HEIC', 'x.jpg', 'x'])
@pytest.mark.parametrize('brand', [b'heic', b'heix', b'mif1'])
def test_one_such_photograph_under_any_name(tmp_path, without_heif, name, brand):
    (tmp_path/name).write_bytes(HEIC.replace(b'ftypheic', b'ftyp' + brand))
    for given in (tmp_path/name, io.BytesIO((tmp_path/name).read_bytes())):
        with pytest.raises(DataError, match='vit_course.heif'): open_image(given)
    (tmp_path/name).write_bytes(HEIC.replace(b'heic', b'isom'))      # a film
    with pytest.raises(DataError, match='not an image that can be read'): open_image(tmp_path/name)


def test_such_photographs_are_read(tmp_path):
    pytest.importorskip('pillow_heif')
    root = tree(tmp_path, cat=5, dog=5)
    for f in list(root.rglob('*.png')):
        Image.open(f).resize((64, 64)).save(f.with_suffix('.HEIC'))
        f.unlink()
    s = load(root)
    assert sum(sizes(s)) == 10 and not any('not read' in n for n in s.notes) and s.skipped == []


def test_other_files_are_counted(tmp_path):
    "Annotations beside images (YOLO, VOC), arrays, and the system's own files, which do not count."
    root = tree(tmp_path, **split())
    write(root, **{'train/cat_txt': 7, 'train/dog/more_xml': 2, 'train/dog_npy': 1, 'test/cat_json': 1})
    for name in ('.DS_Store', 'Thumbs.db', 'desktop.ini'): (root/'train'/'cat'/name).touch()
    (root/'train'/'cat'/'IMG_0001').touch()
    s = load(root)
    test, train = s.notes
    assert sizes(s) == (18, 2, 6) and 'test, not read: 1 .json' in test
    assert '7 .txt (cat/0.txt)' in train and '2 .xml' in train and '1 .npy' in train
    assert '1 without an ending (cat/IMG_0001)' in train and 'humbs' not in train and 'ini' not in train


def test_a_class_of_nothing_but_labels(tmp_path):
    "YOLO's train/images/ and train/labels/."
    root = tree(tmp_path, **{'train/images': 5})
    write(root, **{'train/labels_txt': 5})
    assert 'labels, but 5 .txt' in refused(root)


@pytest.mark.parametrize('ending', ['jfif', 'JPE', 'pnm', 'apng'])
def test_rarer_endings(tmp_path, ending):
    root = tree(tmp_path, cat=5, dog=5)
    for f in list(root.rglob('*.png')): f.rename(f.with_suffix(f'.{ending}'))
    assert sum(sizes(load(root))) == 10


def test_an_archive_is_no_folder(tmp_path):
    (tmp_path/'data.zip').write_bytes(b'PK')
    assert 'unpack it' in refused(tmp_path/'data.zip')


@pytest.mark.parametrize('a, b', [('Cat', 'cat'), ('cat ', 'cat'), ('maine  coon', 'Maine Coon')])
def test_names_that_differ_in_case_or_spaces(tmp_path, a, b):
    "NORMAL in one split, Normal in the other; or both in one folder, as two hands make them."
    root = tree(tmp_path/'a', **{f'train/{a}': 5, 'train/dog': 5, f'test/{b}': 3, 'test/dog': 3})
    assert 'differ in case or spaces' in refused(root) and 'no labels' not in refused(root)
    root = tree(tmp_path/'b', **{a: 5, b: 5, 'dog': 5})
    if len(os.listdir(root)) == 3: assert f'{a!r}' in load(root).notes[0] and '2 classes, whose names differ' in load(root).notes[0]


@pytest.mark.parametrize('name', ['labels.csv', 'annotations.json', 'imagelabels.mat'])
def test_labels_in_a_table(tmp_path, name):
    "A contest's train.csv, COCO's annotations, the flowers' .mat: none is read, and that is said."
    for i, counts in enumerate(({'images': 5}, {'train': 5, 'test': 5}, {'.': 5})):
        root = tree(tmp_path/str(i), **counts)
        (root/name).touch()
        assert refused(root).endswith(f'(labels are the names of folders; {name} is not read)')


# ------------------------------------------------------------------- the same image twice

@pytest.mark.parametrize('a,b,words', [
    ('train/cat/9_0.png', 'test/cat/copy.png', 'two sets'), ('train/dog/9_0.png', 'valid/dog/copy.PNG', 'two sets'),
    ('train/cat/9_0.png', 'train/dog/copy.png', 'two classes'), ('train/cat/9_0.png', 'train/cat/copy.png', '')])
def test_the_same_file_twice(tmp_path, a, b, words):
    root = tree(tmp_path, **split(valid='valid'))
    shutil.copy(root/a, root/b)
    notes = load(root).notes
    assert len(notes) == bool(words)
    if words: assert f'1 images are in {words}' in notes[0] and str(root/a) in notes[0] and str(root/b) in notes[0]


def test_a_copy_is_held_out(tmp_path):
    "Image and copy in one class (cat/x.jpg, cat/x (1).jpg): the split between them is ours."
    root = tree(tmp_path, cat=10, dog=10)
    for f in list(root.rglob('*.png')): shutil.copy(f, f.with_name(f'{f.stem} (1).png'))
    assert 'are in two sets' in load(root).notes[0]


def test_two_wrongs_are_two_notes(tmp_path):
    root = tree(tmp_path, **split())
    shutil.copy(root/'train'/'cat'/'9_0.png', root/'test'/'dog'/'copy.png')
    assert ['two sets' in n for n in load(root).notes] == [True, False]


# ------------------------------------------------------------------------------- links

@pytest.mark.skipif(os.name == 'nt', reason='links need rights there')
def test_links(tmp_path):
    far = tree(tmp_path/'far', **split('a', 'b'), **{'more': 3})
    root = tmp_path/'d'
    (root/'Test').mkdir(parents=True)
    (root/'train').symlink_to(far/'a')
    for c in ('cat', 'dog'): (root/'Test'/c).symlink_to(far/'b'/c)
    (root/'nowhere').symlink_to('nowhere')
    assert sizes(load(root)) == (18, 2, 6)
    (far/'a'/'cat'/'again').symlink_to(far/'a'/'cat')       # nothing is lost by leaving this out
    assert len(load(root).notes) == 1
    (far/'a'/'cat'/'more').symlink_to(far/'more')
    s = load(root)
    assert sizes(s) == (18, 2, 6) and 'more is a link' in s.notes[1]
    (root/'val').symlink_to(root/'Test')
    assert 'are the same folder' in refused(root)


@pytest.mark.skipif(os.name == 'nt', reason='no such names there')
def test_notes_are_printable(tmp_path):
    s = load(tree(tmp_path, **split(), **{'red\x1b[31m\nline': 1}))
    assert len(s.notes) == 1 and s.notes[0].isprintable()


# ---------------------------------------------------------------- images on a command line

def test_files_folders_and_patterns(tmp_path):
    root = tree(tmp_path, pics=3, other=2)
    write(root, **{'pics_txt': 2, 'empty_txt': 1})
    (root/'pics'/'.hidden.png').touch()
    (root/'pics'/'a[1].png').write_bytes((root/'pics'/'4_0.png').read_bytes())
    for given, names in ((['pics'], ['4_0', '4_1', '4_2', 'a[1]']), (['pics/*_[01].png', 'nowhere.png'], ['4_0', '4_1', 'nowhere']),
                         (['*/*'], ['5_0', '5_1', '4_0', '4_1', '4_2', 'a[1]']), (['pics/a[1].png'], ['a[1]'])):
        found, notes = image_paths([root/g for g in given])
        assert [f.stem for f in found] == names and len(notes) == (given == ['pics'])
    assert '2 .txt' in image_paths([root/'pics'])[1][0]
    for given, words in (('empty', 'no images in it, but 1 .txt'), ('pics/*.gif', 'matches no images')):
        with pytest.raises(DataError, match=words): image_paths([root/given])


# ------------------------------------------------------------- a look before training

def doctor(in_process, root):
    "What `vit_doctor --data` says: (status, {name: [(ok or warning, text)]}, stderr)."
    status, out, err = in_process(vit_doctor, '--data', root)
    said = {}
    for line in out.splitlines(): said.setdefault(line.split()[1], []).append((line.split()[0], line))
    return status, said, err


def test_the_doctor_looks_at_a_folder(in_process, tmp_path):
    root = tree(tmp_path, **split('Training', 'Testing'), **{'Training/emu': 60, 'Testing/emu': 1, 'extra': 2})
    write(root, **{'Training/cat_csv': 2})
    Image.new('L', (90, 60)).save(root/'Training'/'cat'/'grey.png'); Image.new('I;16', (7, 5)).save(root/'Testing'/'dog'/'deep.png')
    (root/'Training'/'dog'/'broken.jpg').write_bytes(b'x')
    shutil.copy(root/'Training'/'cat'/'12_0.png', root/'Testing'/'cat'/'copy.png')
    status, said, err = doctor(in_process, root)
    assert status == 0 and not err
    sets, classes, sizes, modes = (said[k][0][1] for k in ('sets', 'classes', 'sizes', 'modes'))
    assert 'test 9' in sets and 'held out of train' in sets and 'cat (15)' in classes and 'emu (61)' in classes
    assert '7 x 5 to 90 x 60' in sizes and 'L 1 (grey' in modes and 'I;16 1 (brought to 8 bits)' in modes
    assert 'broken.jpg' in said['damaged'][0][1] and 'emu alone has 67 %' in said['balance'][0][1]
    notes = ' '.join(line for _, line in said['note'])
    assert all(w in notes for w in ('Testing/ is taken as test', 'not used: extra/', '2 .csv', 'in two sets'))
    assert {kind for k in ('balance', 'damaged', 'note') for kind, _ in said[k]} == {'warning'}


def test_the_doctor_finds_nothing_wrong(in_process, tmp_path):
    status, said, err = doctor(in_process, tree(tmp_path, **split(valid='valid')))
    assert status == 0 and not err and list(said) == ['sets', 'classes', 'sizes', 'modes']
    assert 'held out' not in said['sets'][0][1]


def test_the_doctor_misses_a_class(in_process, tmp_path):
    root = tree(tmp_path, **split(classes=('cat', 'dog', 'emu')))
    shutil.rmtree(root/'test'/'emu')
    assert 'test has no images of emu' in doctor(in_process, root)[1]['balance'][0][1]


@pytest.mark.parametrize('root', ['nowhere', 'one', 'heic', 'damaged'])
def test_the_doctor_refuses_what_training_would(in_process, tmp_path, root, without_heif):
    tree(tmp_path, **{'one/cat': 3})
    write(tmp_path, HEIC, **{'heic/cat_heic': 3, 'heic/dog_heic': 3}); write(tmp_path, **{'damaged/cat_png': 3, 'damaged/dog_png': 3})
    status, said, err = doctor(in_process, root)
    assert status == 2 and err.startswith('vit_doctor: ') and err.count('\n') == 1 and root in err


# ------------------------------------------------------------------------ in a command

def run(in_process, root):
    return in_process(vit_train, '--name', 'x', '--dataset', 'folder', '--data_dir', root,
                      '--model_type', 'testing', '--device', 'cpu', '--img_size', 8,
                      '--num_steps', 2, '--train_batch_size', 8)


def test_training_on_other_names(in_process, tmp_path):
    tree(tmp_path/'mri', **split('Training', 'Testing', classes=('glioma', 'none', 'other')))
    status, out, err = run(in_process, 'mri')
    assert status == 0 and 'images in 3 classes' in out and '9 test' in out, err
    dls = get_dls('folder', tmp_path/'mri', img_size=8)
    assert dls.c == 3 and dls.skipped == [] and 'Training/ is taken as train' in dls.notes[0]


def test_a_refusal_is_one_line(in_process, tmp_path):
    tree(tmp_path/'f', **{f'fold{i}/{c}': 5 for i in range(3) for c in ('cat', 'dog')})
    status, out, err = run(in_process, 'f')
    assert status == 2 and err.startswith('vit_train: ') and err.count('\n') == 1
    assert not (tmp_path/'output').exists()


def test_loaders_of_splits_are_those_of_the_data_set():
    kw = dict(seed=3, micro_batches=2, every=4, min_area=.5, device='cpu')
    a, b = make_dls(load_splits('digits', size=8), 8, 32, flip=False, **kw), get_dls('digits', bs=32, **kw)
    for one, other in zip(a.loaders, b.loaders):
        pairs = list(zip(one, other, strict=True))
        assert all(torch.equal(x, z) for p, q in pairs for x, z in zip(p, q)) and len(pairs) == (8 if one is a.train else len(one))
    assert (a.c, a.classes, a.notes, a.train.flip) == (b.c, b.classes, b.notes, b.train.flip)
    with pytest.raises(TypeError, match='colour'): get_dls('digits', colour=1)
