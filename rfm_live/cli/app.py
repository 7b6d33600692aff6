"""The commands of `rfm-live` and their options."""

from pathlib import Path
from typing import Annotated

import typer

from rfm_live import __version__
from rfm_live.cli.bank import bank as bank_commands
from rfm_live.cli.console import console, one_line_errors
from rfm_live.cli.models import AsJson, TrustPickle, models
from rfm_live.places import EMBEDDED

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None, help=__doc__)

Checkpoint = Annotated[
    str,
    typer.Option(
        help='"embedded", the folder of a MusicGen checkpoint (transformers or audiocraft layout), or '
        "OWNER/NAME[@REVISION] that `models pull` has brought into the local Hugging Face cache"
    ),
]
Bank = Annotated[str | None, typer.Option(help='concept bank (.safetensors), or "none"; default: the one that ships')]
Precision = Annotated[
    str,
    typer.Option(
        help="how a step's weights are kept on a CPU: fp32 is exact; fp16 and int8 round them, and read fewer bytes"
    ),
]
Compute = Annotated[str, typer.Option(help="where the model computes: cpu, cuda, cuda:N or mps")]
Seed = Annotated[int, typer.Option(help="names the music: same seed and knobs, same samples", min=0)]


def _version(wanted: bool) -> None:
    if wanted:
        console.print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Play a music model live: endless MusicGen, steered by concept knobs."""


@app.command()
def play(
    prompt: Annotated[
        str | None, typer.Argument(help="what to play, in English; default: the checkpoint's own")
    ] = None,
    checkpoint: Checkpoint = EMBEDDED,
    bank: Bank = None,
    seed: Seed = 0,
    sink: Annotated[str, typer.Option(help="auto, soundcard, jack, null or wav:PATH")] = "auto",
    device: Annotated[
        str | None, typer.Option(help="sound card by name or number (see `devices`), or JACK ports")
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on; other than loopback needs a token")] = "127.0.0.1",
    osc_port: Annotated[int, typer.Option(help="UDP port for OSC", min=0, max=65535)] = 9000,
    reply_port: Annotated[
        int, typer.Option(help="UDP port that OSC answers go to as well; 0: none", min=0, max=65535)
    ] = 9001,
    port: Annotated[int, typer.Option(help="port of the page and the WebSocket", min=0, max=65535)] = 9080,
    token: Annotated[str | None, typer.Option(help="token that remote clients must bring; default: drawn")] = None,
    buffer: Annotated[float, typer.Option(help="milliseconds of music written ahead of the ear, 60..10000")] = 240.0,
    trust_pickle: TrustPickle = False,
    threads: Annotated[
        str, typer.Option(help='threads that a step runs on; "auto" tries how many are quickest here')
    ] = "1",
    precision: Precision = "fp32",
    compute: Compute = "cpu",
) -> None:
    """Play without end; steer over OSC or in the browser. Ctrl-C ends it."""
    from rfm_live.cli.play import run_play

    with one_line_errors():
        run_play(
            prompt,
            checkpoint,
            bank,
            seed,
            sink,
            device,
            host,
            osc_port,
            reply_port or None,
            port,
            token,
            buffer,
            trust_pickle,
            threads,
            precision,
            compute,
        )


@app.command()
def render(
    prompt: Annotated[str, typer.Argument(help="what to play, in English; empty for no prompt")],
    seconds: Annotated[float, typer.Option(help="length of the file")] = 30.0,
    seed: Seed = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="NAME=VALUE or NAME=VALUE@SECONDS; a concept, or an address; repeatable"),
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="sound file to write: .wav or .flac")] = Path(
        "out.wav"
    ),
    checkpoint: Checkpoint = EMBEDDED,
    bank: Bank = None,
    trust_pickle: TrustPickle = False,
    precision: Precision = "fp32",
    compute: Compute = "cpu",
) -> None:
    """Render a piece into a file: the same engine without clock or devices."""
    from rfm_live.cli.render import run_render

    with one_line_errors():
        run_render(prompt, seconds, seed, set_ or [], output, checkpoint, bank, trust_pickle, precision, compute)


@app.command()
def devices() -> None:
    """List the sound outputs of this machine."""
    from rfm_live.cli.devices import run_devices

    with one_line_errors():
        run_devices()


app.add_typer(models, name="models")


@app.command()
def doctor(
    checkpoint: Checkpoint = EMBEDDED,
    bank: Bank = None,
    buffer: Annotated[float, typer.Option(help="milliseconds of buffer to judge, as `play` takes them")] = 240.0,
    precision: Precision = "fp32",
    compute: Compute = "cpu",
    trust_pickle: TrustPickle = False,
    as_json: AsJson = False,
) -> None:
    """Measure which checkpoints this machine plays, and how soon a knob is heard; exit code 1 if not this one."""
    from rfm_live.cli.doctor import Asked, run_doctor

    with one_line_errors():
        run_doctor(Asked(checkpoint, bank, buffer, trust_pickle, precision, compute), as_json)


@app.command()
def bench(
    sections: Annotated[
        list[str] | None, typer.Argument(help="step, steering, decoding, stream; default: all of them")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="embedded, small, medium or large; repeatable; default: all that fit into memory"),
    ] = None,
    minutes: Annotated[float, typer.Option(help="music that `stream` plays; 30 tells whether anything grows")] = 1.0,
    quick: Annotated[bool, typer.Option("--quick", help="only the embedded checkpoint, in seconds")] = False,
    device: Annotated[str, typer.Option(help="where the models are: cpu, cuda, cuda:1, ...")] = "cpu",
    write: Annotated[
        Path | None, typer.Option(help="file for the tables, in markdown, written anew after every measurement")
    ] = None,
) -> None:
    """Measure the engine beside transformers and against this machine's memory. Ends with one JSON line."""
    from rfm_live.cli.bench import run_bench

    with one_line_errors():
        run_bench(sections or [], shape or [], minutes, quick, device, write)


app.add_typer(bank_commands, name="bank")


@app.command()
def learn(
    what: Annotated[
        str | None,
        typer.Argument(help="notes, intervals, scales, chords, progressions, tempos or time_signatures of SynTheory"),
    ] = None,
    folders: Annotated[
        tuple[Path, Path] | None, typer.Option(help="folder of audio with the concept, and one without")
    ] = None,
    classes: Annotated[Path | None, typer.Option(help="folder with one folder of audio per class")] = None,
    csv: Annotated[Path | None, typer.Option(help='table with a column "path" and columns of labels')] = None,
    label: Annotated[str | None, typer.Option(help="the column of --csv to learn")] = None,
    name: Annotated[str | None, typer.Option(help="name of the concept, or what its classes' names begin with")] = None,
    published: Annotated[
        Path | None, typer.Option(help="folder of the published SynTheory set; default: rendered here")
    ] = None,
    subset: Annotated[int, typer.Option(help="clips of SynTheory, balanced; 0: all", min=0)] = 600,
    jobs: Annotated[int, typer.Option(help="tracks rendered at a time", min=1)] = 1,
    method: Annotated[str, typer.Option(help="rfm, linear, ridge, logistic, means or random")] = "rfm",
    pooling: Annotated[str, typer.Option(help="mean, last, segments or attention")] = "mean",
    meter: Annotated[
        str, typer.Option(help="what hears the effect: auto, probe, onset rate, spectral centroid, ...")
    ] = "auto",
    seeds: Annotated[int, typer.Option(help="pieces to listen to per knob value; 0: none", min=0, max=64)] = 3,
    seed: Seed = 0,
    checkpoint: Checkpoint = EMBEDDED,
    cache: Annotated[Path | None, typer.Option(help="folder for what can be used again; default: the user's")] = None,
    workers: Annotated[int, typer.Option(help="read clips with so many Ray workers; 0: here", min=0)] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="bank to write; default: NAME.safetensors")] = None,
    force: Annotated[bool, typer.Option("--force", help="write over an existing bank")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="only measure a fraction and tell what time and memory it will take")
    ] = False,
    as_json: AsJson = False,
    trust_pickle: TrustPickle = False,
) -> None:
    """Learn concept knobs from audio: a bank, and what its knobs were heard to do. An interrupted run goes on."""
    from rfm_live.cli.learn import LearnOptions, run_learn

    with one_line_errors():
        run_learn(
            LearnOptions(
                what,
                folders,
                classes,
                csv,
                label,
                name,
                published,
                subset,
                jobs,
                method,
                pooling,
                meter,
                seeds,
                seed,
                checkpoint,
                trust_pickle,
                cache,
                workers,
                out,
                force,
                dry_run,
                as_json,
            )
        )


@app.command()
def evaluate(
    experiment: Annotated[
        str,
        typer.Argument(
            help="e1: single directions; e2: blocks and gates; e3: cross-fade; v1: poolings; v2: several at once; "
            "v3: block by block; v4: lower eigenvectors"
        ),
    ],
    checkpoint: Checkpoint = EMBEDDED,
    bank: Bank = None,
    concept: Annotated[list[str] | None, typer.Option(help="concept to look at; repeatable; default: all")] = None,
    prompt: Annotated[list[str] | None, typer.Option(help="prompts that the seeds take in turn; repeatable")] = None,
    seeds: Annotated[int, typer.Option(help="clips of each condition", min=2, max=256)] = 8,
    seconds: Annotated[float, typer.Option(help="length of what is heard of a clip")] = 8.0,
    learn_: Annotated[
        bool, typer.Option("--learn/--no-learn", help="learn rival directions from SynTheory, where it has the concept")
    ] = True,
    subset: Annotated[int, typer.Option(help="clips of a set of SynTheory to learn from", min=48)] = 600,
    jobs: Annotated[int, typer.Option(help="tracks rendered at a time", min=1)] = 1,
    listeners: Annotated[
        int, typer.Option(help="clips that teach instrument and drum classifiers (embedded checkpoint); 0: none", min=0)
    ] = 240,
    clap: Annotated[
        str | None, typer.Option(help="CLAP checkpoint for scores: a folder, or OWNER/NAME in the local cache")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the report")] = Path("evaluation"),
    cache: Annotated[Path | None, typer.Option(help="folder for what can be used again; default: the user's")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="a few short clips, to see that all works")] = False,
    trust_pickle: TrustPickle = False,
) -> None:
    """Measure what a bank's knobs do, beside the MusicRFM paper's figures. An interrupted run goes on."""
    from rfm_live.cli.evaluate import EvaluateOptions, run_evaluate

    with one_line_errors():
        run_evaluate(
            EvaluateOptions(
                experiment,
                checkpoint,
                bank,
                tuple(concept or ()),
                tuple(prompt or ()),
                seeds,
                seconds,
                learn_,
                subset,
                jobs,
                listeners,
                clap,
                out,
                cache,
                quick,
                trust_pickle,
            )
        )


def main() -> None:
    """Entry point of the script."""
    app()
