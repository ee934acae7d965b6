"""Files from outside: each way of being wrong has its own error, and nothing in a file is ever run."""

from __future__ import annotations

import json
import os
import pickle
import random
import stat
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from swin_dense.errors import OutputError, WeightsError
from swin_dense.weights import save_weights
from swin_dense.weights.files import missing_file, read_checkpoint, read_metadata, unwrap


def state(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"a.weight": torch.randn(40, 30, generator=generator), "a.bias": torch.randn(40, generator=generator)}


def same(left: object, right: dict[str, torch.Tensor]) -> bool:
    assert isinstance(left, dict)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in right)


def safetensors_file(shape: Sequence[int], offsets: Sequence[int]) -> bytes:
    """Eight bytes of data, and a header that may say otherwise."""
    header = json.dumps({"a": {"dtype": "F32", "shape": shape, "data_offsets": offsets}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(8)


def follow(advice: str, folder: Path) -> None:
    """Runs the command of a message on the file IN of a folder."""
    code = advice.split('python -c "')[1].removesuffix('"')
    exec(code.replace("'IN'", repr(str(folder / "IN"))).replace("'OUT'", repr(str(folder / "OUT"))), {})


class TestReading:
    def test_a_header_of_any_length_is_recognised(self, tmp_path):
        """The first byte of a file is that of its header's length: 0x80, for instance, as of a pickle."""
        path = tmp_path / "w.safetensors"
        for length in range(0, 260, 8):
            save_file({"w": torch.ones(2)}, path, metadata={"note": "n" * length})
            assert torch.equal(read_checkpoint(path)["w"], torch.ones(2))

    @pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
    def test_the_content_decides_not_the_suffix(self, tmp_path: Path, kind: str) -> None:
        path = tmp_path / "w.pth"
        if kind == "safetensors":
            save_weights(state(), path)
        else:
            torch.save(state(), path, _use_new_zipfile_serialization=kind == "zip")
        assert same(read_checkpoint(path), state())

    def test_a_misleading_suffix(self, tmp_path: Path) -> None:
        torch.save(state(), tmp_path / "w.safetensors")
        with pytest.raises(WeightsError, match=r"is a file of torch\.save.*; rename it to w\.pth"):
            read_checkpoint(tmp_path / "w.safetensors")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match=r"there is no file .*absent\.pth"):
            read_checkpoint(tmp_path / "absent.pth")

    @pytest.mark.parametrize("file_name", ["swin_t", "swin_t-704ceda3.pth"])
    def test_missing_and_published(self, tmp_path: Path, file_name: str) -> None:
        message = (
            rf"no file .*{file_name}; .* fetch it with swin-dense weights fetch swin_t, which prints the file's path"
        )
        with pytest.raises(WeightsError, match=message):
            read_checkpoint(tmp_path / file_name)

    def test_folder(self, tmp_path: Path) -> None:
        with pytest.raises(WeightsError, match="is a folder; name the checkpoint file in it$"):
            read_checkpoint(tmp_path)
        save_file(state(), tmp_path / "model.safetensors")  # as save_pretrained leaves it
        assert str(missing_file(tmp_path)).endswith(f"in it: {tmp_path / 'model.safetensors'}")

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "is empty"),
            (b"\r\n<!DOCTYPE html><html><body>Sign in</body></html>", "is a web page"),
            (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "is a web page"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
            (b"\x1f\x8b\x08\x00", "is compressed with gzip, not a checkpoint"),
            (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, perhaps of Keras"),
            (b"\x93NUMPY\x01\x00", "is a NumPy array"),
            (b'{"error": "rate limited"}', "not a checkpoint of torch.save or safetensors; it starts with"),
            (b"\x80\x02garbage", "is damaged|was not written by torch.save"),
            (b"PK\x03\x04" + bytes(500), "is truncated or damaged"),
            (b"\x20" + bytes(7) + b'{"a": 1', "is truncated or damaged"),
            (b"\xff" * 7 + b"\x7f" + b'{"a": 1', "is truncated or damaged.*[Hh]eader"),
            (safetensors_file([2], [0, 80]), "is truncated or damaged"),
            (safetensors_file([99], [0, 8]), "is truncated or damaged"),
            (safetensors_file([2], [8, 0]), "is truncated or damaged"),
        ],
    )
    def test_what_is_no_checkpoint(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "w.pth"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=message) as raised:
            read_checkpoint(path)
        assert str(path) in str(raised.value)

    @pytest.mark.parametrize("kind", ["zip", "pickle", "safetensors"])
    @pytest.mark.parametrize("kept", [0.02, 0.5, 0.9, 0.999])
    def test_truncated(self, tmp_path: Path, kind: str, kept: float) -> None:
        path = tmp_path / "w.pth"
        if kind == "safetensors":
            save_weights(state(), path)
        else:
            torch.save(state(), path, _use_new_zipfile_serialization=kind == "zip")
        content = path.read_bytes()
        path.write_bytes(content[: int(len(content) * kept)])
        with pytest.raises(WeightsError, match="truncated|damaged"):
            read_checkpoint(path)

    @pytest.mark.parametrize(
        "content",
        [
            b"\x80\x02J\x01",  # struct.error: half an integer
            b"\x80\x02" + b"\x8a\xff" + bytes(255) + b".",  # an integer of 255 bytes
            b"\x80\x02" + b"\x8b\xff\xff\xff\x7f.",  # an integer of 2 GiB
            b"\x80\x02X\xff\xff\xff\x7fa.",  # a text of 2 GiB
            b"\x80\x02" + b"(" * 100_000 + b".",
            b"\x80\x02" + b"]" * 50_000 + b"a" * 49_999 + b".",  # lists in lists
            b"\x80\x02h\x07.",  # a thing that was never stored
            b"\x80\x02NQ.",  # a storage called None
        ],
    )
    def test_mutated_pickles(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "w.pth").write_bytes(content)
        with pytest.raises(WeightsError, match=r"w\.pth"):
            read_checkpoint(tmp_path / "w.pth")

    @pytest.mark.parametrize("zipped", [True, False])
    def test_files_with_a_few_other_bytes_are_read_or_refused(self, tmp_path: Path, zipped: bool) -> None:
        """Torch's reader raises AssertionError, AttributeError, struct.error and more for such files."""
        torch.save({"state_dict": state(), "epoch": 3}, tmp_path / "w", _use_new_zipfile_serialization=zipped)
        content, dice = (tmp_path / "w").read_bytes(), random.Random(0)
        start = content.index(b"\x80\x02")  # the pickle
        for number in range(300):
            mutated = bytearray(content)
            for _ in range(dice.randint(1, 4)):
                mutated[start + dice.randrange(500)] = dice.choice((*b"(.}]QRatub", dice.randrange(256)))
            path = tmp_path / f"{number}.pth"
            path.write_bytes(mutated)
            with suppress(WeightsError):
                unwrap(read_checkpoint(path), "w")

    def test_enormous_numbers_in_a_header(self, tmp_path: Path) -> None:
        for number, (shape, offsets) in enumerate(
            [([10**30], [0, 8]), ([2], [0, 10**30]), ([2**63, 2], [0, 8]), ([-1], [0, 8]), ([2], [-8, 0])]
        ):
            path = tmp_path / f"{number}.safetensors"
            path.write_bytes(safetensors_file(shape, offsets))
            with pytest.raises(WeightsError, match="is truncated or damaged"):
                read_checkpoint(path)

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_a_pickle_of_arrays_as_detectron2_publishes(self, tmp_path: Path, protocol: int) -> None:
        arrays = {"backbone.bottom_up.stem.conv1.weight": np.ones((4, 3, 7, 7), np.float32)}
        content = {"model": arrays, "__author__": "Detectron2 Model Zoo", "matching_heuristics": True}
        (tmp_path / "IN").write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(
            WeightsError, match=r"is a pickle of NumPy arrays.*Detectron2.*isolated environment"
        ) as raised:
            read_checkpoint(tmp_path / "IN")
        follow(str(raised.value), tmp_path)
        assert same(read_checkpoint(tmp_path / "OUT"), {key: torch.from_numpy(arrays[key]) for key in arrays})

    def test_an_archive_of_something_else(self, tmp_path: Path) -> None:
        with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
            archive.writestr("images/1.jpg", "x")
        with pytest.raises(WeightsError, match="zip archive without weights"):
            read_checkpoint(tmp_path / "w.zip")

    def test_an_archive_that_would_unpack_to_more_than_it_is(self, tmp_path: Path) -> None:
        torch.save({"a": torch.zeros(1_000_000)}, tmp_path / "w.pth")
        with (
            zipfile.ZipFile(tmp_path / "w.pth") as stored,
            zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as packed,
        ):
            for name in stored.namelist():
                packed.writestr(name, stored.read(name))
        with pytest.raises(WeightsError, match=r"is compressed, .* unpacked it has 4,\d{3},\d{3} bytes"):
            read_checkpoint(tmp_path / "bomb.pth")

    def test_a_tar_archive_as_torch_once_wrote(self, tmp_path: Path) -> None:
        with tarfile.open(tmp_path / "w.pth", "w") as archive:
            archive.addfile(tarfile.TarInfo("sys_info"))
        with pytest.raises(WeightsError, match=r"is a tar archive; .* torch before 0\.1\.10.*isolated environment"):
            read_checkpoint(tmp_path / "w.pth")

    def test_a_pipe_is_refused_instead_of_waited_for(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "w.pth")
        with pytest.raises(WeightsError, match="is a pipe or a device"):
            read_checkpoint(tmp_path / "w.pth")

    def test_no_permission(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By the system call's answer, because root may read everything."""
        torch.save(state(), tmp_path / "w.pth")

        def denied(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
        with pytest.raises(WeightsError, match=r"cannot read .*w\.pth: Permission denied"):
            read_checkpoint(tmp_path / "w.pth")

    def test_a_program(self, tmp_path: Path) -> None:
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "w.pt")
        with pytest.raises(WeightsError, match="is a TorchScript program"):
            read_checkpoint(tmp_path / "w.pt")

    @pytest.mark.parametrize("zipped", [True, False])
    @pytest.mark.parametrize(
        ("thing", "name"),
        [
            (torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
            (np.float64(3), r"numpy\.\S*scalar"),
            (pickle.Pickler, "pickle.Pickler"),
        ],
    )
    def test_objects_are_refused_by_name_with_a_way_out(
        self, tmp_path: Path, thing: object, name: str, zipped: bool
    ) -> None:
        torch.save({"state_dict": state(), "meta": thing}, tmp_path / "w.pth", _use_new_zipfile_serialization=zipped)
        with pytest.raises(
            WeightsError, match=rf"holds {name} beside tensors.*isolated environment.*weights_only=False"
        ):
            read_checkpoint(tmp_path / "w.pth")

    def test_code_in_a_file_is_not_run(self, tmp_path: Path) -> None:
        class Attack:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.mkdir, (str(tmp_path / "attacked"),)

        torch.save({"model": Attack()}, tmp_path / "w.pth")
        with pytest.raises(WeightsError, match=r"holds \w+\.mkdir beside tensors"):
            read_checkpoint(tmp_path / "w.pth")
        assert not (tmp_path / "attacked").exists()

    def test_the_hinted_conversion_makes_a_file_that_is_read(self, tmp_path: Path) -> None:
        torch.save({"state_dict": state(), "meta": np.float64(3)}, tmp_path / "IN")
        with pytest.raises(WeightsError) as raised:
            read_checkpoint(tmp_path / "IN")
        follow(str(raised.value), tmp_path)
        assert same(read_checkpoint(tmp_path / "OUT"), state())


class TestUnwrapping:
    @pytest.mark.parametrize(
        ("content", "source"),
        [
            (state(), "f"),
            ({"model": state(), "epoch": 3}, "f[model]"),
            ({"meta": {"CLASSES": ("a",)}, "state_dict": OrderedDict(state())}, "f[state_dict]"),
            ({"state_dict": state(1), "state_dict_ema": state()}, "f[state_dict_ema]"),
            ({"model": {"state_dict": state()}}, "f[model][state_dict]"),
        ],
    )
    def test_usual_wrappers_are_opened_and_named(self, content: dict[str, object], source: str) -> None:
        tensors, found = unwrap(content, "f")
        assert same(tensors, state())
        assert found == source

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ([1, 2], "holds a list instead of a state dict"),
            (torch.zeros(3), "holds a Tensor instead of a state dict"),
            ({"net": state(), "epoch": 3}, r"net \(dict\), epoch \(int\)"),
            ({**state(), "b": np.zeros(3)}, r"1 entries are something else: b \(ndarray\)"),
            ({1: torch.zeros(3)}, r"something else: 1 \(Tensor\)"),
            ({"a": torch.zeros(3).to_sparse()}, r"something else: a \(sparse Tensor\)"),
            ({"a": torch.zeros(1).expand(10**12)}, r"something else: a \(expanded Tensor\)"),
            ({"a": torch.zeros(3, device="meta")}, r"something else: a \(empty Tensor\)"),
        ],
    )
    def test_what_is_no_state_dict(self, content: object, message: str) -> None:
        with pytest.raises(WeightsError, match=message):
            unwrap(content, "f")


class TestSaving:
    def test_keeps_values_types_and_metadata(self, tmp_path: Path) -> None:
        tensors = {**state(), "half": torch.randn(3).half(), "count": torch.tensor(7), "turned": torch.randn(4, 3).T}
        path = tmp_path / "run" / "weights.safetensors"
        save_weights(tensors, path, metadata={"classes": "a,b"})
        loaded = load_file(path)
        assert same(loaded, tensors)
        assert all(loaded[key].dtype == tensors[key].dtype for key in tensors)
        assert read_metadata(path) == {"classes": "a,b"}

    def test_permissions_follow_the_umask(self, tmp_path: Path) -> None:
        """The files of safetensors itself are for their owner alone."""
        before = os.umask(0o022)
        try:
            save_weights(state(), tmp_path / "w.safetensors")
        finally:
            os.umask(before)
        assert stat.S_IMODE((tmp_path / "w.safetensors").stat().st_mode) == 0o644

    def test_other_files_have_no_metadata(self, tmp_path: Path) -> None:
        torch.save(state(), tmp_path / "w.pth")
        save_weights(state(), tmp_path / "w.safetensors")
        for path in (tmp_path / "w.pth", tmp_path / "w.safetensors", tmp_path / "absent", tmp_path):
            assert read_metadata(path) == {}

    def test_takes_a_module_even_with_shared_parameters(self, tmp_path: Path) -> None:
        model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
        model[1].weight = model[0].weight
        save_weights(model, tmp_path / "w")
        assert same(load_file(tmp_path / "w"), model.state_dict())

    def test_a_failure_leaves_the_old_file_and_no_rubbish(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = tmp_path / "weights.safetensors"
        save_weights(state(1), path)

        def full_disk(tensors: object, file: Path, metadata: object) -> None:
            file.write_bytes(b"half a file")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr("swin_dense.weights.files.save_file", full_disk)
        with pytest.raises(OutputError, match=r"weights\.safetensors cannot be written: No space left"):
            save_weights(state(2), path)
        assert same(load_file(path), state(1))
        assert list(tmp_path.iterdir()) == [path]

    def test_who_reads_the_old_file_meanwhile_keeps_all_of_it(self, tmp_path: Path) -> None:
        path = tmp_path / "weights.safetensors"
        save_weights(state(1), path)
        old = path.read_bytes()
        with path.open("rb") as reader:
            save_weights(state(2), path)
            assert reader.read() == old
        assert same(load_file(path), state(2))

    def test_a_folder_in_the_way(self, tmp_path: Path) -> None:
        with pytest.raises(OutputError, match="cannot be written"):
            save_weights(state(), tmp_path)
        assert list(tmp_path.iterdir()) == []
