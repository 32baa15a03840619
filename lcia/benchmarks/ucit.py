"""UCIT (Guo et al. 2025, HiDe-LLaVA): six tasks that instruction-tuned models have seen little of.

Layout, as the authors' README has it: `instructions/<task>/` with the files below, `datasets/` with the images that
rows name. Train 23,998, 40,000, 40,000, 29,859, 40,000 and 40,000 rows, test 3,000 each. The ids of training rows are
of pictures and repeat, so rows are numbered. VizWiz and Flickr30k are captioning, with five references a picture in
COCO's form. MCITlib names three of the folders VizWiz-caption, Flickr30k-cap and CLEVR-Math.

The authors' scripts count a prediction that is part of the answer, and for captions report the mean of BLEU-1 to 4,
METEOR, ROUGE-L and CIDEr; METEOR needs Java, so that mean has no scorer here, and published figures of the two
captioning tasks do not compare. How the published prompts end could not be looked up: that their last line is the
instruction, as in CoIN, is an assumption.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lcia.addresses import below
from lcia.benchmarks.published import Layout, Published, chosen, specs
from lcia.config.benchmarks import UcitConfig
from lcia.metrics.published import legacy_within
from lcia.metrics.scoring import exact_without_dot, pair
from lcia.types import Benchmark, Origin

ORIGIN = Origin("https://huggingface.co/datasets/HaiyangGuo/UCIT", "CC BY 4.0")
_EXACT = (exact_without_dot, legacy_within)
_CAPTIONS = pair("cider")
_REFERENCES = "val_coco_type_3000.json"

TASKS: Mapping[str, Published] = MappingProxyType(
    {
        "ImageNet-R": Published(
            _EXACT, "ImageNet-R/train.json", "ImageNet-R/test_3000.json", numbered=True,
            images=Origin("https://huggingface.co/datasets/HaiyangGuo/UCIT", "as distributed there"),
        ),
        "ArxivQA": Published(
            _EXACT, "ArxivQA/train_4w.json", "ArxivQA/test_3000.json", numbered=True,
            images=Origin("https://huggingface.co/datasets/MMInstruction/ArxivQA", "CC BY-SA 4.0"),
        ),
        "VizWiz": Published(
            _CAPTIONS, "VizWiz/train.json", "VizWiz/test_3000.json", numbered=True, captions=f"VizWiz/{_REFERENCES}",
            images=Origin("https://vizwiz.org/tasks-and-datasets/image-captioning/", "terms of VizWiz"),
        ),
        "IconQA": Published(
            _EXACT, "IconQA/train.json", "IconQA/test_3000.json", numbered=True,
            images=Origin("https://iconqa.github.io/", "CC BY-NC-SA 4.0"),
        ),
        "CLEVR": Published(
            _EXACT, "CLEVR/train_4w.json", "CLEVR/test_3000.json", numbered=True,
            images=Origin("https://huggingface.co/datasets/dali-does/clevr-math", "CC BY 4.0"),
        ),
        "Flickr30k": Published(
            _CAPTIONS, "Flickr30k/train_brief_4w.json", "Flickr30k/test_3000.json", numbered=True,
            captions=f"Flickr30k/{_REFERENCES}",
            images=Origin("https://huggingface.co/datasets/HaiyangGuo/UCIT", "terms of Flickr30k: research only"),
        ),
    }
)  # fmt: skip


def benchmark(config: UcitConfig) -> Benchmark:
    """The chosen tasks in the authors' files.

    Raises:
        InputError: a task that UCIT does not have.
    """
    facts = chosen("UCIT", TASKS, config.tasks)
    layout = Layout(below(config.root, config.annotations), below(config.root, config.images), ORIGIN)
    return Benchmark("ucit", specs(facts, layout, config.max_samples))
