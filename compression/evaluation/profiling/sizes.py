"""Which sizes an artifact's inputs have in a profile: those that are asked for, if its manifest allows them. Torch-free."""

from compression.evaluation.profiling.refusals import refused
from compression.schema.manifest import BATCH, HEIGHT, LENGTH, WIDTH, Interface
from compression.schema.profile import ProfileRequest

TYPICAL = 1  #: place of the typical sizes among those that an interface was `tested` at


def chosen_sizes(interface: Interface, request: ProfileRequest) -> tuple[dict[str, int], ProfileRequest]:
    """Return the size of each axis, and the request with its length or resolution filled in.

    Raises Refused if the artifact takes no such inputs.
    """
    asked = {BATCH: request.batch, LENGTH: request.length, HEIGHT: request.resolution, WIDTH: request.resolution}
    wanted = {axis: size for axis, size in asked.items() if size is not None}
    fixed = {axis: size for one in interface.inputs for axis, size in zip(one.axes, one.shape, strict=True) if size is not None}
    axes = {axis for one in interface.inputs for axis in one.axes}
    own = interface.tested[TYPICAL] if len(interface.tested) > TYPICAL else {}
    sizes = {**{axis: size for axis, size in own.items() if axis in axes}, **fixed}
    for axis, size in wanted.items():
        key = _asked_as(axis)
        named = ", ".join(one.name for one in interface.inputs if axis in one.axes)
        if axis not in axes:
            other = request.model_copy(update={key: None})
            raise refused("unsupported", f"The artifact's inputs have no {axis}.", f"Leave the {key} out.", request=other)
        most = interface.largest.get(axis, size)
        if axis in fixed and fixed[axis] != size:
            cause = f"The {axis} of {named} is fixed to {fixed[axis]} in the artifact's file, and {size} is asked for."
            fits = request.model_copy(update={key: fixed[axis]})
            raise refused("unsupported", cause, f"Leave the {key} out, or ask for {fixed[axis]}.", subject=named, request=fits)
        if size > most:
            cause = f"The artifact takes a {axis} of at most {most} in {named}, and {size} is asked for."
            fits = request.model_copy(update={key: most})
            raise refused("unsupported", cause, f"Ask for a {key} of at most {most}.", subject=named, request=fits)
        sizes[axis] = size
    square = sizes.get(HEIGHT) if LENGTH not in sizes and sizes.get(HEIGHT) == sizes.get(WIDTH) else None
    return sizes, request.model_copy(update={"length": sizes.get(LENGTH), "resolution": square})


def _asked_as(axis: str) -> str:
    """Return the request's word for an axis."""
    return {BATCH: "batch", LENGTH: "length"}.get(axis, "resolution")
