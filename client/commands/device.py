"""lathe device: machines that measure artifacts; and `lathe device run` on such a machine."""

from typing import Annotated

import typer

from client.api import Lathe
from client.commands.keys import moment
from client.commands.registry import Commands
from client.device_types import Device
from client.devices.runner import Runner
from client.errors import NoDevice
from client.terminal.output import as_json, emit, say, table as terminal_table, write_json

app = Commands(help="Devices: machines that measure artifacts for your team.", no_args_is_help=True)


@app.command()
def register(lathe: Lathe, name: Annotated[str, typer.Argument(help="Its name, unique in your team.")]) -> None:
    """Register a device and make its key, which is shown this once. Only admins may."""
    device = lathe.register_device(name)
    command = f"LATHE_URL={lathe.url} LATHE_KEY={device.key} lathe device run"
    emit(device, device.key, f"The key of {device.name}, shown once. On the device: {command}")


def _about(device: Device) -> str | None:
    if device.facts is None:
        return None
    return f"{device.facts.processor or device.facts.machine}, {device.facts.cores} cores"


@app.command()
def ls(lathe: Lathe) -> None:
    """List the devices: their machine, how many profiles wait for each, and when they were last heard of."""
    found = lathe.devices()
    rows = [(one.id, one.name, one.waiting, moment(one.last_heard) or "never", _about(one)) for one in found]
    empty = "No devices. Register one: lathe device register NAME"
    emit(found, terminal_table(("id", "name", "waiting", "heard of", "machine"), rows, empty=empty))


@app.command()
def rm(lathe: Lathe, device: Annotated[str, typer.Argument(metavar="DEVICE", help="Its name or id.")]) -> None:
    """Remove a device and end its key. What it has not measured fails; its profiles stay."""
    named = next((one.id for one in lathe.devices() if device in (one.id, one.name)), device)
    lathe.delete(f"devices/{named}")
    emit({"removed": named}, f"{device} is removed.")


@app.command("table")
def show_table(lathe: Lathe, table: Annotated[str | None, typer.Argument(metavar="[ID]", help="A table's id.")] = None) -> None:
    """List the device tables: what single layers cost on the workers' processors. With an id: the times of that one."""
    if table is None:
        found = lathe.device_tables()
        listed = [(one.id, one.processor, one.threads, one.rows, moment(one.measured_at) or "") for one in found]
        empty = "No device tables. A job with a target latency measures one."
        emit(found, terminal_table(("id", "processor", "threads", "times", "measured"), listed, empty=empty))
        return
    whole = lathe.device_table(table)
    rows = [(*row.layer, row.runtime, row.form, f"{row.microseconds:.1f}") for row in whole.rows]
    emit(whole, terminal_table(("layer", "in", "out", "places", "batch", "runtime", "form", "µs"), rows, empty="No times."))


@app.command()
def run(lathe: Lathe) -> None:
    """Measure the profiles that wait for this device, until stopped. LATHE_KEY is the device's own key.

    Ctrl-C and SIGTERM hand the current profile back. One process a device: two would disturb each other's figures.
    """
    mine = next((one for one in lathe.devices() if one.mine), None)
    if mine is None:
        raise NoDevice(f"the key for {lathe.url} is no device's")
    say(f"{mine.name} ({mine.id}) waits for profiles.")
    Runner(lathe, mine.id, lambda text: write_json({"said": text}) if as_json() else say(text)).run()
