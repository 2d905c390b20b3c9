"""Packaging of captioner. Settings of the tools are in pyproject.toml."""

from pathlib import Path

from setuptools import setup

# Captioning, scoring and showing need no torch. captioner/extras.py names these extras where one is missing.
TRAIN = [
    "onnxscript>=0.7.1",  # writes the graphs of `captioner export`; brings onnx, onnx-ir. A GRU is wrong before 0.7.1
    "safetensors>=0.4.3",
    "tensorboard>=2.16",
    "torch>=2.14",  # torch 2.11 exports an LSTM's state with one dimension too many
    "torchvision>=0.29",
]
WEB = ["fastapi>=0.115.3", "python-multipart>=0.0.27", "uvicorn>=0.30"]
JAVA = ["pycocoevalcap>=1.2"]
PARQUET = ["pyarrow>=17"]
REMOTE = ["fsspec[http]>=2024.6"]
HUB = ["huggingface_hub>=1.0"]
RAY = ["fsspec>=2024.6", "pyarrow>=17", "ray[data]>=2.51"]
HEIC = ["pillow-heif>=1.1"]

setup(
    name="captioner",
    version="0.1.0",
    description="Photos in, sentences out, and a picture of where the model looked for each word",
    long_description=(Path(__file__).parent / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    python_requires=">=3.10",
    # The shipped model lies in checkpoints/ of the repository and in captioner/shipped/ of an installation.
    packages=[
        "captioner",
        "captioner.backends",
        "captioner.bulk",
        "captioner.bulk.formats",
        "captioner.checkpoint",
        "captioner.cli",
        "captioner.data",
        "captioner.diagnose",
        "captioner.inside",
        "captioner.metrics",
        "captioner.metrics.files",
        "captioner.visualize",
        "captioner.training",
        "captioner.training.objectives",
        "captioner.web",
        "captioner.shipped",
    ],
    package_dir={"captioner": "captioner", "captioner.shipped": "checkpoints"},
    package_data={
        "captioner": ["py.typed"],
        "captioner.bulk": ["static/*"],
        "captioner.visualize": ["static/*"],
        "captioner.web": ["static/*"],
        "captioner.shipped": ["README.md", "everyday-mobilenet_v2/*", "flickr8k-mobilenet_v2/*"],
    },
    install_requires=[
        "matplotlib>=3.8",
        "nltk>=3.8.1",
        "numpy>=1.26",
        "onnxruntime>=1.20",
        "pillow>=11.3",
        "pycocotools>=2.0.8",
        "tqdm>=4.66",
        "tyro>=1.0.0",
    ],
    extras_require={
        "heic": HEIC,
        "hub": HUB,
        "java-metrics": JAVA,
        "parquet": PARQUET,
        "ray": RAY,
        "remote": REMOTE,
        "train": TRAIN,
        "web": WEB,
        "test": [
            *TRAIN,
            *WEB,
            *JAVA,
            *PARQUET,
            *REMOTE,
            *HEIC,
            *HUB,
            "mypy",
            "pytest>=8",
            "pytest-xdist",
            "ruff",
            "selenium>=4.20",
        ],
    },
    entry_points={"console_scripts": ["captioner=captioner.__main__:main"]},
)
