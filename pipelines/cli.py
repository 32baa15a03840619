"""The command line. Heavy imports wait until a command needs them: --help answers in a fraction of a second."""

from __future__ import annotations

import difflib
import signal
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from lcia.secrets import redacted
from lcia.types import InputError
from pipelines import exits
from pipelines.exits import leave


class Verbs(TyperGroup):
    """The commands of a group; a word that names none is answered with the one that was probably meant."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.commands or cmd_name.startswith("-"):
            return super().get_command(ctx, cmd_name)
        close = difflib.get_close_matches(cmd_name, self.commands, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.commands)}"
        raise InputError(f"there is no command {cmd_name!r}; {hint}")

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A command of two words, such as `launch check`, goes before the one that its first word names."""
        if (words := " ".join(args[:2])) in self.commands:
            return words, self.commands[words], args[2:]
        return super().resolve_command(ctx, args)


app = typer.Typer(
    name="lcia",
    cls=Verbs,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
data_app = typer.Typer(cls=Verbs, no_args_is_help=True, help="Look at, check and make data.")
app.add_typer(data_app, name="data")
base_app = typer.Typer(cls=Verbs, no_args_is_help=True, help="Make the base that a run tunes.")
app.add_typer(base_app, name="base")

Config = Annotated[Path, typer.Argument(help="Run configuration (YAML).", show_default=False)]
Either = Annotated[Path, typer.Argument(help="Configuration of a run or a study (YAML).", show_default=False)]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.key=value, as often as you like.", show_default=False)
]
Launch = Annotated[Path | None, typer.Option(help="Where to run (YAML); without it: this machine, one worker.")]
LaunchSet = Annotated[list[str] | None, typer.Option("--set", help="Overrides of the launch: key=value.")]
INTERRUPTED, TERMINATED = 130, 143
"""Exit codes after Ctrl-C and SIGTERM, as shells have them."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def _version(asked: bool) -> None:
    if asked:
        from lcia.report.environment import environment

        print(f"lcia {metadata.version('lcia-ray')} (commit {environment()['commit']})")
        raise typer.Exit


@app.callback()
def lcia(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print version and commit.")
    ] = False,
) -> None:
    """Continual instruction tuning of multimodal models on Ray: dynamic EMA and instruction grouping."""


@app.command()
def quickstart(
    overrides: Overrides = None,
    storage: Annotated[str, typer.Option(help="Where runs are stored: a folder or a URL.")] = "runs",
    workers: Annotated[int, typer.Option(help="Training workers of each of the two methods.")] = 1,
    settings: LaunchSet = None,
) -> None:
    """Compare sequential tuning with the default method on a short stream; no file needed."""
    from pipelines.terminal.commands import quickstart as command

    command(overrides or [], storage, workers, settings or [])


@app.command()
def init(path: Annotated[Path, typer.Argument(help="File to write.")] = Path("run.yaml")) -> None:
    """Write a commented configuration to start from."""
    from pipelines.terminal.init import init as command

    command(path)


@app.command()
def run(
    config: Config,
    overrides: Overrides = None,
    launch: Launch = None,
    settings: LaunchSet = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Prepare the data, show the plan, train nothing.")] = False,
) -> None:
    """Run a configuration; the same command after a kill continues where it was."""
    from pipelines.terminal.inputs import launch_file, run_file

    chosen, where = run_file(config, overrides or ()), launch_file(launch, settings or ())
    from pipelines.terminal.commands import run as command

    command(chosen, where, dry_run)


@app.command()
def plan(  # noqa: PLR0913 - a parameter for each option
    config: Either,
    overrides: Overrides = None,
    launch: Launch = None,
    settings: LaunchSet = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Without data and weights: steps, parameters, memory of a worker.")
    ] = False,
    shape: Annotated[
        str | None, typer.Option(help="With --dry-run: llava-1.5-7b, llava-1.5-13b or a config.json of the model.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show a run's stages, or a study's in numbers and hours, cached or to do. Prepares the data, trains nothing."""
    from pipelines.terminal.inputs import launch_file, run_or_study_file

    chosen, where = run_or_study_file(config, overrides or ()), launch_file(launch, settings or ())
    if dry_run:
        from pipelines.terminal.dry_run import dry_run as command_without_data

        command_without_data(chosen, where, shape, as_json)
        return
    if shape:
        raise InputError("--shape describes a model that is not here: give --dry-run too")
    from pipelines.terminal.planning import plan as command

    command(chosen, where, as_json)


@app.command()
def group(  # noqa: PLR0913 - a parameter for each option
    config: Config,
    overrides: Overrides = None,
    launch: Launch = None,
    settings: LaunchSet = None,
    sweep: Annotated[bool, typer.Option("--sweep", help="All groupings over the whole range of thresholds.")] = False,
    picture: Annotated[Path | None, typer.Option(help="With --sweep: draw them into this file (PNG or SVG).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show which tasks share an adapter and where test instructions are routed, with all similarities."""
    from pipelines.terminal.inputs import launch_file, run_file

    chosen, where = run_file(config, overrides or ()), launch_file(launch, settings or ())
    from pipelines.terminal import planning

    if sweep:
        planning.sweep(chosen, where, as_json, picture)
    elif picture:
        raise InputError("--picture draws what --sweep finds: give both")
    else:
        planning.group(chosen, where, as_json)


@app.command()
def study(
    config: Annotated[Path, typer.Argument(help="Study configuration (YAML).", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="key=value; of the runs' base: base.section.key=value.", show_default=False),
    ] = None,
    launch: Launch = None,
    settings: LaunchSet = None,
    as_json: AsJson = False,
) -> None:
    """Run many configurations (orders, bounds, seeds) and compare them; equal stages are trained once."""
    from pipelines.terminal.inputs import launch_file, study_file

    chosen, where = study_file(config, overrides or ()), launch_file(launch, settings or ())
    from pipelines.terminal.commands import study as command

    command(chosen, where, as_json)


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(help="A run's folder, for example runs/quickstart.")],
    as_json: AsJson = False,
    again: Annotated[
        bool, typer.Option("--rebuild", help="Make page, tables and adapters again from the stored results first.")
    ] = False,
) -> None:
    """Print a finished run's table, or its summary as JSON."""
    from pipelines.terminal.commands import report as command

    command(run_folder, as_json, again)


@app.command()
def launch(  # noqa: PLR0913 - a parameter for each option
    config: Either,
    launch: Annotated[Path, typer.Option(help="Launch file with a cluster block.")],
    overrides: Overrides = None,
    target: Annotated[
        str, typer.Option(help="rayjob or raycronjob: Kubernetes manifests; jobs: submit to a Ray head.")
    ] = "rayjob",
    apply: Annotated[
        bool, typer.Option("--apply", help="Send the manifests with kubectl, and follow the job.")
    ] = False,
    address: Annotated[str, typer.Option(help="For --target jobs: the head's http:// address.")] = "",
    settings: LaunchSet = None,
) -> None:
    """Send a run or a study to a cluster: as a KubeRay RayJob or RayCronJob, or through the Ray Jobs API."""
    from pipelines.terminal.inputs import launch_file, run_or_study_file

    chosen, where = run_or_study_file(config, overrides or ()), launch_file(launch, settings or ())
    from pipelines.terminal.launching import Sending
    from pipelines.terminal.launching import launch as command

    command(chosen, where, Sending(target, address, apply), None if overrides else config.read_text(encoding="utf-8"))


Sent = Annotated[str, typer.Argument(help="Name of a RayJob or RayCronJob, or a Ray job's id.", show_default=False)]
Namespace = Annotated[str, typer.Option(help="Kubernetes namespace.")]
Head = Annotated[str, typer.Option("--address", help="Of a Ray head (http://HOST:8265), for a job of --target jobs.")]


@app.command("launch status")
def launch_status(name: Sent, namespace: Namespace = "lcia", address: Head = "", as_json: AsJson = False) -> None:
    """Show how far a job is that was sent."""
    from pipelines.kubernetes.jobs import place, show_status

    show_status(place(address, namespace), name, as_json)


@app.command("launch logs")
def launch_logs(
    name: Sent,
    namespace: Namespace = "lcia",
    address: Head = "",
    follow: Annotated[bool, typer.Option("--follow", help="Go on until the job ends.")] = False,
) -> None:
    """Print the log of a job that was sent."""
    from pipelines.kubernetes.jobs import place

    place(address, namespace).logs(name, follow)


@app.command("launch stop")
def launch_stop(name: Sent, namespace: Namespace = "lcia", address: Head = "") -> None:
    """End a job that was sent; what it has finished stays in the storage."""
    from pipelines.kubernetes.jobs import place

    print(place(address, namespace).stop(name))


@app.command("launch check")
def launch_check(
    files: Annotated[list[str], typer.Argument(help="Files of YAML manifests; - reads stdin.", show_default=False)],
    schemas: Annotated[Path | None, typer.Option(help="JSON Schemas of the operator, to be kept too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Check the RayJobs in any manifests against KubeRay's rules and our own. Exit code 2 if one is broken."""
    from pipelines.kubernetes.check import check_files as command

    command(files, as_json, schemas)


@app.command()
def doctor(
    cluster: Annotated[bool, typer.Option("--cluster", help="Check every node of a Ray cluster instead.")] = False,
    launch: Launch = None,
    settings: LaunchSet = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, or a Ray cluster: versions, devices, storage. Exit code 2 if a cluster does not fit."""
    if cluster:
        from pipelines.terminal.inputs import launch_file

        where = launch_file(launch, settings or ())
        from pipelines.terminal.cluster_doctor import cluster_doctor

        cluster_doctor(where, as_json)
    elif launch or settings:
        raise InputError("--launch and --set are of --cluster")
    else:
        from pipelines.terminal.doctor import doctor as command

        command(as_json)


@app.command()
def schema(
    what: Annotated[str, typer.Argument(help="run, launch or study.")] = "run",
) -> None:
    """Print the JSON Schema of a configuration."""
    from pipelines.terminal.commands import schema as command

    command(what)


@app.command()
def runs(
    storage: Annotated[str, typer.Option(help="The storage of your runs: a folder or a URL.")] = "runs",
    as_json: AsJson = False,
) -> None:
    """List the runs of a storage folder: state, date, metrics, seconds."""
    from pipelines.terminal.runs import runs as command

    command(storage, as_json)


@app.command()
def clean(
    storage: Annotated[str, typer.Option(help="The storage of your runs: a folder or a URL.")] = "runs",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would go; delete nothing.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    unreferenced: Annotated[
        bool, typer.Option("--unreferenced", help="Results too that no run in this storage names.")
    ] = False,
    killed: Annotated[
        list[str] | None,
        typer.Option(help="A run of another machine that was killed, and so has not said that it ended. Repeatable."),
    ] = None,
) -> None:
    """Show what no run needs (leftovers, damaged results, old checkpoints), ask, and delete it."""
    from pipelines.terminal.clean import clean as command

    command(storage, dry_run, yes, unreferenced, killed or [])


@data_app.command("validate")
def data_validate(config: Config, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Read every row of every split; print a table of counts and defects. Exit code 2 if too many are bad."""
    from pipelines.terminal.inputs import run_file

    chosen = run_file(config, overrides or ())
    from pipelines.terminal.data_commands import validate as command

    command(chosen, as_json)


@data_app.command("check")
def data_check(
    kind: Annotated[str, typer.Argument(help="coin, ucit, mllm_cl or trace.", show_default=False)],
    root: Annotated[str, typer.Argument(help="Folder or URL of its files.", show_default=False)],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="key=value of the benchmark's section.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Name what is missing of a published benchmark, with its source and licence. Exit code 1 if something is."""
    from pipelines.terminal.data_commands import check as command

    command(kind, root, overrides or [], as_json)


@data_app.command("show")
def data_show(
    config: Config,
    overrides: Overrides = None,
    task: Annotated[str | None, typer.Option(help="Only this task.")] = None,
    rows: Annotated[int, typer.Option(help="Rows per task.")] = 1,
    images: Annotated[Path | None, typer.Option(help="Folder to save the images in (PNG).")] = None,
) -> None:
    """Show what the model will see: prompt, the tokens that carry loss, image, group (from the first rows)."""
    from pipelines.terminal.inputs import run_file

    chosen = run_file(config, overrides or ())
    from pipelines.terminal.data_commands import show as command

    command(chosen, task, rows, images)


@data_app.command("make")
def data_make(
    config: Config, folder: Annotated[Path, typer.Argument(help="Folder to write.")], overrides: Overrides = None
) -> None:
    """Write MiniCoIN in CoIN's layout (JSON and PNG files)."""
    from pipelines.terminal.inputs import run_file

    chosen = run_file(config, overrides or ())
    from pipelines.terminal.data_commands import make as command

    command(chosen.benchmark, folder)


@base_app.command("build")
def base_build(  # noqa: PLR0913 - a parameter for each option
    out: Annotated[Path, typer.Argument(help="Folder to write.", show_default=False)],
    language: Annotated[
        Path, typer.Option(help="Folder of a language model such as vicuna, or of a whole LLaVA of its authors.")
    ],
    vision: Annotated[Path, typer.Option(help="Folder of the CLIP vision tower.")],
    projector: Annotated[
        Path | None, typer.Option(help="mm_projector.bin of LLaVA's pre-training; without it: the language folder's.")
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a tokenizer in place of the language's.")] = None,
    dtype: Annotated[str, typer.Option(help="float16, bfloat16 or float32.")] = "float16",
    as_json: AsJson = False,
) -> None:
    """Put vicuna, CLIP and a projector (or a LLaVA of its authors) together into a folder that `llava` loads."""
    from pipelines.terminal.base import build as command

    command(out, (language, vision, projector, tokenizer), dtype, as_json)


def main() -> None:
    """Entry point: InputError becomes exit code 2, a run's error 1; Ctrl-C 130 and SIGTERM 143, with how to go on."""
    exits.announce_leave()
    signal.signal(signal.SIGTERM, _end)
    leave(guarded(lambda: app(standalone_mode=False)))


def _end(number: int, frame: object) -> None:
    """Answers SIGTERM as Ctrl-C is answered, with a code of its own."""
    exits.END_SIGNALS.append(number)
    raise KeyboardInterrupt


def guarded(command: Callable[[], Any]) -> int:
    """Runs a command and turns what it raises into a message on stderr and an exit code."""
    try:
        code = command()
    except InputError as error:
        print(f"lcia: {redacted(str(error))}", file=sys.stderr)
        return 2
    except typer.Exit as stop:
        return stop.exit_code
    except KeyboardInterrupt:
        return _interrupted()
    except exits.StageFailedError as error:
        exits.wait_if_exiting()
        print(f"lcia: {error}\n{exits.HOW_TO_CONTINUE}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - the last stop: told to the user, with the way to the traceback
        exits.wait_if_exiting()
        return _failed(error)
    # typer turns Ctrl-C into a result of its own.
    return _interrupted() if code == INTERRUPTED else code if isinstance(code, int) else 0


def _interrupted() -> int:
    print(f"\nlcia: stopped; {exits.HOW_TO_CONTINUE}", file=sys.stderr)
    return TERMINATED if exits.END_SIGNALS else INTERRUPTED


def _failed(error: Exception) -> int:
    """Usage errors of the command line are the user's (2); everything else is told in one line, with a way to more."""
    import os
    import traceback

    if hasattr(error, "format_message"):
        print(f"lcia: {error.format_message()}", file=sys.stderr)
        return int(getattr(error, "exit_code", 2))
    if os.environ.get("LCIA_DEBUG"):
        print(redacted(traceback.format_exc()), file=sys.stderr)
    # What fails inside Ray fails in the middle of a run.
    hint = f"{exits.HOW_TO_CONTINUE} " if type(error).__module__.startswith("ray.") else ""
    print(f"lcia: {type(error).__name__}: {redacted(str(error))}\n{hint}(LCIA_DEBUG=1 shows where)", file=sys.stderr)
    return 1


if __name__ == "__main__":
    main()
