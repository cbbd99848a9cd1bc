"""Small copies of benchmarks, files and columns as officially laid out, with drawn pictures and invented rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture(path: Path, number: int, side: int = 56) -> None:
    """A picture unlike the others."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _csv(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def pad_ufes_20(folder: Path) -> Path:
    header = "patient_id,lesion_id,smoke,drink,age,region,gender,fitspatrick,diagnostic,itch,img_id,biopsed"
    codes = ("BCC", "NEV", "SEK", "ACK", "MEL", "SCC")
    rows = [
        f"PAT_{n // 2},{n},False,False,60,FACE,MALE,{n % 6 + 1}.0,{code},True,PAT_{n}.png,True" for n, code in enumerate(codes)
    ]
    rows[5] = rows[5].replace("6.0", "")
    _csv(folder / "metadata.csv", header, *rows)
    for n in range(6):
        picture(folder / f"imgs_part_{n % 3 + 1}" / f"PAT_{n}.png", n)
    return folder


_FITZPATRICK = (
    "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,three_partition_label,qc,url,url_alphanum",
    "aa00,1,2,psoriasis,inflammatory,non-neoplastic,,https://example.test/1.jpg,1.jpg",
    "bb11,4,4,melanoma,malignant melanoma,malignant,1 Diagnostic,https://example.test/2.jpg,2.jpg",
    "cc22,6,5,seborrheic keratosis,benign epidermal,benign,,https://example.test/3.jpg,3.jpg",
    "dd33,-1,-1,acne,inflammatory,non-neoplastic,,https://example.test/4.jpg,4.jpg",
    "ee44,3,3,acne vulgaris,inflammatory,non-neoplastic,3 Wrongly labelled,https://example.test/5.jpg,5.jpg",
)


def fitzpatrick17k(folder: Path) -> Path:
    _csv(folder / "fitzpatrick17k.csv", *_FITZPATRICK)
    for n, name in enumerate(("aa00", "bb11", "cc22", "dd33", "ee44")):
        picture(folder / "images" / f"{name}.jpg", n)
    return folder


def skincon(folder: Path) -> Path:
    fitzpatrick17k(folder)
    _csv(
        folder / "annotations_fitzpatrick17k.csv",
        ",ImageID,Vesicle,Papule,Scale,Do not consider this image",
        "0,aa00.jpg,0,0,1,0",
        "1,cc22.jpg,0,1,0,0",
        "2,bb11.jpg,0,0,0,1",
    )
    return folder


def ddi(folder: Path) -> Path:
    _csv(
        folder / "ddi_metadata.csv",
        ",DDI_ID,DDI_file,skin_tone,malignant,disease",
        "0,1,000001.png,56,True,melanoma-in-situ",
        "1,2,000002.png,12,False,melanocytic-nevi",
        "2,3,000003.png,34,True,melanoma-acral-lentiginous",
        "3,4,000004.png,34,False,seborrheic-keratosis-irritated",
    )
    for n in range(1, 5):
        picture(folder / f"00000{n}.png", n)
    return folder


def ham10000(folder: Path) -> Path:
    codes = ("bkl", "nv", "df", "mel", "vasc", "bcc", "akiec")
    rows = [f"HAM_{n // 2:07d},ISIC_{n:07d},{codes[n // 2]},histo,80.0,male,scalp,vidir_modern" for n in range(14)]
    _csv(folder / "HAM10000_metadata.csv", "lesion_id,image_id,dx,dx_type,age,sex,localization,dataset", *rows)
    for n in range(14):
        picture(folder / f"HAM10000_images_part_{n % 2 + 1}" / f"ISIC_{n:07d}.jpg", n)
    return folder


def dermbench(folder: Path) -> Path:
    rows = (
        ("Acne and Rosacea Photos", "Rosacea", "07RosaceaOK0828063.jpg"),
        ("Acne and Rosacea Photos", "acne open comedo", "acne-open-comedo-12.jpg"),
        ("Eczema Photos", "eczema nummular", "eczema-nummular-7.jpg"),
        ("Nail Fungus and other Nail Disease", "Psoriasis nails", "psoriasis-nails-3.jpg"),
        ("Psoriasis pictures Lichen Planus and related diseases", "Psoriasis nails", "nails-4.jpg"),
    )
    lines = []
    for n, (category, diagnosis, name) in enumerate(rows):
        reference = f"<think> Seen: {n}. </think> This is **{diagnosis}**."
        record = {"id": f"dermbench_{n}", "category": category, "diagnosis": diagnosis, "image": f"{category}/{name}"}
        lines.append(json.dumps({**record, "reference": reference}))
        picture(folder / category / name, n)
    _csv(folder / "references.jsonl", *lines)
    return folder


def synthderm(folder: Path) -> Path:
    from skinedge.synthderm.dataset import write_dataset

    write_dataset(folder / "set", 24, 7, size=56, workers=1)
    return folder / "set"


def csv(folder: Path) -> Path:
    _csv(
        folder / "cases.csv",
        "image,label,skin,patient",
        "0.png,Nevus,II,p0",
        "1.png,melanoma (in situ),3,p1",
        "2.png,melanoma,5,p2",
        "3.png,nevus,,p3",
    )
    for n in range(4):
        picture(folder / f"{n}.png", n)
    return folder


COPIES: Mapping[str, Callable[[Path], Path]] = {
    "csv": csv, "ddi": ddi, "dermbench": dermbench, "fitzpatrick17k": fitzpatrick17k, "ham10000": ham10000,
    "pad-ufes-20": pad_ufes_20, "skincon": skincon, "synthderm": synthderm,
}  # fmt: skip
