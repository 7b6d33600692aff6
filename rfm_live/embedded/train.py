"""The recipe of the embedded checkpoint: `python -m rfm_live.embedded.train`. Resumable; the same seed gives the same
data.

Stages, each of which goes on where an earlier run stopped: render the corpus, train the codec, encode the corpus, train
the decoder and text encoder, distil their guidance, let the decoder learn from its own playing and from pushes, let it
compare takes of its own, write the checkpoint.
Needs the `train` extra, FluidSynth and the FluidR3 Mono soundfont.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from rfm_live.concepts.array_files import keep, kept
from rfm_live.embedded import CHECKPOINT
from rfm_live.embedded.codec_refinement import match_loudness, refine_decoder
from rfm_live.embedded.codec_training import CODEBOOKS, CodecTrainer, train_codec
from rfm_live.embedded.corpus import BATCH, PIECE_FRAMES, Corpus, piece, render_corpus
from rfm_live.embedded.decoder_lessons import Lessons, delayed_columns, draw_captions
from rfm_live.embedded.decoder_training import DecoderTrainer, codebook_losses, train_decoder
from rfm_live.embedded.export import write_checkpoint
from rfm_live.embedded.guidance_distillation import distil_guidance
from rfm_live.embedded.leads import Leads, Pushes, Repertoire, led_concepts
from rfm_live.embedded.rehearsal import as_played, pushes_file, rehearse
from rfm_live.embedded.render import render_pieces
from rfm_live.embedded.studies import CHORD_STUDIES, NOTE_STUDIES, Study, draw_studies
from rfm_live.embedded.take_scores import JUDGED, TakeJudge
from rfm_live.embedded.takes import AFTER, Comparison
from rfm_live.embedded.text_parts import build_tokenizer
from rfm_live.errors import RfmError

TRAINING_FILE = "training.json"
_ROUNDING_MINUTES = 1e-3
_console = Console()


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the result; written to `recipe.json` beside the run and into the model card."""

    pieces: int = 1200
    held_out: int = 40
    seed: int = 0
    filters: int = 12
    layers: int = 6
    width: int = 256
    codec_minutes: float = 35.0
    refine_minutes: float = 28.0
    text_steps: int = 2000
    decoder_minutes: float = 60.0
    distil_minutes: float = 60.0
    rehearse_minutes: float = 180.0
    compare_minutes: float = 60.0
    chord_studies: int = CHORD_STUDIES
    note_studies: int = NOTE_STUDIES


class Run:
    """One run of the recipe in `folder`, for at most `minutes` of training."""

    def __init__(self, folder: Path, recipe: Recipe, minutes: float, device: str) -> None:
        self.folder, self.recipe, self.device = folder, recipe, torch.device(device)
        self.left = minutes
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2))

    def corpus(self, split: str, count: int) -> Corpus:
        """Rendered pieces of one split."""
        with _bar() as bar:
            task = bar.add_task(f"render {split}", total=count)
            return render_corpus(
                self.folder, split, count, self.recipe.seed, lambda done, total: bar.update(task, completed=done)
            )

    def codec(self, corpus: Corpus) -> CodecTrainer:
        """The codec, trained for what is left of its minutes; frozen once the corpus is encoded."""
        trainer, path = CodecTrainer.create(self.recipe.seed, self.recipe.filters), self.folder / "codec.pt"
        if path.exists():
            trainer.load(path)
        trainer.to(self.device)
        minutes = self._minutes(self.recipe.codec_minutes, trainer.seconds)
        if not (self.folder / "train.codes.npy").exists() and minutes > 0:
            with _progress("codec") as tell:
                train_codec(
                    trainer,
                    corpus.samples,
                    minutes,
                    path,
                    total_minutes=self.recipe.codec_minutes,
                    seed=self.recipe.seed,
                    report=lambda step, losses: tell(step, _named(losses)),
                )
        return trainer

    def refine(self, trainer: CodecTrainer, corpus: Corpus) -> None:
        """The codec's decoder, trained on for what is left of its minutes and then set to the corpus's loudness; its
        codes do not change.
        """
        minutes = self._minutes(self.recipe.refine_minutes, trainer.refined_seconds)
        if minutes > 0:
            with _progress("codec's decoder") as tell:
                refine_decoder(
                    trainer,
                    corpus.samples,
                    minutes,
                    self.folder / "codec.pt",
                    total_minutes=self.recipe.refine_minutes,
                    seed=self.recipe.seed,
                    report=lambda step, losses: tell(step, _named(losses)),
                )
        match_loudness(trainer, corpus.samples, self.recipe.seed)

    def codes(self, trainer: CodecTrainer, corpus: Corpus, split: str) -> np.ndarray:
        """Codes int16 [N, K, T] of the corpus, kept on disk; pieces rendered since are added."""
        path, length = self.folder / f"{split}.codes.npy", len(corpus.captions)
        known = np.load(path) if path.exists() else np.empty((0, CODEBOOKS, PIECE_FRAMES), np.int16)
        rows = [known[:length]]
        with _bar() as bar, torch.no_grad():
            task = bar.add_task(f"encode {split}", total=length, completed=min(len(known), length))
            for index in range(len(known), length):
                rows.append(trainer.encode(corpus.samples[index])[None])
                bar.update(task, advance=1)
        codes = np.concatenate(rows)
        if len(codes) > len(known):
            np.save(path, codes)
        return codes

    def decoder(self, lessons: Lessons) -> DecoderTrainer:
        """The decoder and text encoder, trained for what is left of their minutes and of this run's."""
        recipe, path = self.recipe, self.folder / "decoder.pt"
        trainer = self._decoder_trainer(path)
        minutes = self._minutes(recipe.decoder_minutes, trainer.seconds)
        if minutes > 0 and trainer.step == 0:
            with _progress("text encoder"):
                trainer.teach_text(recipe.text_steps, recipe.seed)
        if minutes > 0:
            with _progress("decoder") as tell:
                train_decoder(
                    trainer,
                    lessons,
                    minutes,
                    path,
                    total_minutes=recipe.decoder_minutes,
                    seed=recipe.seed,
                    report=lambda step, losses, music_loss: tell(step, f"{_nats(losses)}, music {music_loss:.2f}"),
                )
        return trainer

    def distilled(self, teacher: DecoderTrainer, lessons: Lessons) -> DecoderTrainer:
        """The decoder with its guidance told to it, for what is left of the minutes planned for that and of this run's;
        nothing before the decoder has had all of its own.
        """
        recipe, path = self.recipe, self.folder / "distilled.pt"
        if not path.exists() and recipe.decoder_minutes - teacher.seconds / 60 > _ROUNDING_MINUTES:
            return teacher
        student = self._decoder_trainer(path if path.exists() else self.folder / "decoder.pt")
        minutes = self._minutes(recipe.distil_minutes, student.distilled_seconds)
        if minutes > 0:
            with _progress("guidance") as tell:
                distil_guidance(
                    student,
                    teacher,
                    lessons,
                    minutes,
                    path,
                    total_minutes=recipe.distil_minutes,
                    seed=recipe.seed,
                    report=lambda step, divergences: tell(step, _nats(divergences)),
                )
        return student

    def rehearsed(self, before: DecoderTrainer, codec: CodecTrainer, lessons: Lessons) -> DecoderTrainer:
        """The decoder after it has learned from its own playing and from pushes, for what is left of the minutes that
        are planned for that and of this run's; nothing before guidance has had all of its own.
        """
        recipe, path = self.recipe, self.folder / "rehearsed.pt"
        if not path.exists() and recipe.distil_minutes - before.distilled_seconds / 60 > _ROUNDING_MINUTES:
            return before
        student = self._decoder_trainer(path if path.exists() else self.folder / "distilled.pt")
        minutes = self._minutes(recipe.rehearse_minutes, student.rehearsed_seconds)
        if minutes > 0:
            with _progress("rehearsals") as tell:
                rehearse(
                    student,
                    before,
                    codec.export(),
                    lessons,
                    self._leads(before, codec, lessons, pushes_file(path)),
                    minutes,
                    path,
                    total_minutes=recipe.rehearse_minutes,
                    seed=recipe.seed,
                    report=lambda step, losses: tell(step, _nats(losses)),
                )
        return student

    def compared(self, before: DecoderTrainer, codec: CodecTrainer) -> DecoderTrainer:
        """The mean of the decoder before and after it has compared takes of its own under the pushes of its rehearsals,
        for what is left of the minutes that are planned for that and of this run's; nothing before rehearsals have had
        all of their own.
        """
        recipe, path, rehearsed = self.recipe, self.folder / "compared.pt", self.folder / "rehearsed.pt"
        pushes = Pushes.load(pushes_file(rehearsed))
        if pushes is None or recipe.rehearse_minutes - before.rehearsed_seconds / 60 > _ROUNDING_MINUTES:
            return before
        student = self._decoder_trainer(path if path.exists() else rehearsed)
        minutes = self._minutes(recipe.compare_minutes, student.compared_seconds)
        if minutes > 0:
            model = as_played(before, codec.export(), self.folder / "measured")
            with _bar() as bar:
                task = bar.add_task("training listeners", total=JUDGED)
                judge = TakeJudge.learned(model, self.folder, lambda done, _: bar.update(task, completed=done))
            with _progress("takes") as tell:
                playing = path.with_suffix(".playing")
                comparison = Comparison(student, before, codec.export(), pushes, led_concepts(), judge, playing)
                comparison.run(
                    minutes,
                    path,
                    total_minutes=recipe.compare_minutes,
                    seed=recipe.seed,
                    report=lambda step, gone: tell(step, f"{gone:.3f} nats from before without pushes"),
                )
        student.return_to(before, AFTER)
        return student

    def _leads(self, before: DecoderTrainer, codec: CodecTrainer, lessons: Lessons, file: Path) -> Leads:
        """The pieces that pushes lead to, of which the studies' codes are kept on disk, and the pushes of `file`, or
        random ones as long as the decoder's hidden states call for.
        """
        recipe = self.recipe
        studies = draw_studies(recipe.seed, recipe.chord_studies, recipe.note_studies)
        codes = self._studied(codec, studies)
        pushes = Pushes.load(file)
        if pushes is None:
            model = as_played(before, codec.export(), self.folder / "measured")
            columns = delayed_columns(torch.from_numpy(lessons.codes[:8, :, :512].astype(np.int64)))
            norms = model.decoder.hidden_states(columns, None).norm(dim=-1).mean(dim=(0, 2))  # [L]
            pushes = Pushes.drawn(len(led_concepts()), norms, model.config.decoder.width, recipe.seed)
        return Leads(Repertoire(lessons, studies, list(codes)), pushes, led_concepts())

    def _studied(self, codec: CodecTrainer, studies: Sequence[Study]) -> np.ndarray:
        """Codes int16 [N, K, T] of studies, kept on disk under what they were drawn by."""
        recipe = self.recipe
        file = self.folder / f"studies_{recipe.seed}_{recipe.chord_studies}_{recipe.note_studies}.safetensors"
        stored = kept(file)
        if stored is None:
            coded: list[np.ndarray] = []
            with _bar() as bar, torch.no_grad():
                task = bar.add_task("encode studies", total=len(studies))
                for start in range(0, len(studies), BATCH):
                    some = render_pieces([study.piece for study in studies[start : start + BATCH]])
                    coded += [codec.encode(samples) for samples in some]
                    bar.update(task, completed=len(coded))
            stored = {"codes": np.stack(coded)}
            keep(stored, file)
        return stored["codes"]

    def _decoder_trainer(self, path: Path) -> DecoderTrainer:
        """A decoder and text encoder as `path` has them, or fresh ones."""
        recipe = self.recipe
        tokenizer = build_tokenizer(draw_captions(recipe.seed))
        trainer = DecoderTrainer.create(tokenizer, recipe.seed, recipe.layers, recipe.width, recipe.filters)
        if path.exists():
            trainer.load(path)
        trainer.to(self.device)
        return trainer

    def _minutes(self, planned: float, seconds: float) -> float:
        """Minutes that this run may still train a part that is planned for `planned` and has had `seconds`."""
        minutes = max(0.0, min(self.left, planned - seconds / 60))
        self.left -= minutes
        return minutes


def validate(trainer: DecoderTrainer, codes: np.ndarray, captions: list[str], frames: int = 512) -> list[float]:
    """Loss in nats per codebook of the averaged weights on one window of every held-out piece, with its caption."""
    totals = np.zeros(CODEBOOKS)
    with trainer.averaged(), torch.no_grad():
        for index, caption in enumerate(captions):
            columns = delayed_columns(torch.from_numpy(codes[index : index + 1, :, :frames].astype(np.int64)))
            columns = columns.to(next(trainer.model.parameters()).device)
            totals += codebook_losses(trainer.logits(columns[..., :-1], [caption]), columns[..., 1:]).cpu().numpy()
    return [float(value) for value in totals / len(captions)]


def told(recipe: Recipe, codec: CodecTrainer, decoder: DecoderTrainer, losses: list[float]) -> dict[str, object]:
    """What the model card says of the training, in plain values."""
    return {
        **asdict(recipe),
        "codec_steps": codec.step,
        "codec_trained_minutes": round(codec.seconds / 60, 1),
        "refined_steps": codec.refined_steps,
        "refined_minutes": round(codec.refined_seconds / 60, 1),
        "decoder_steps": decoder.step,
        "decoder_trained_minutes": round(decoder.seconds / 60, 1),
        "distilled_steps": decoder.distilled_steps,
        "distilled_minutes": round(decoder.distilled_seconds / 60, 1),
        "rehearsed_steps": decoder.rehearsed_steps,
        "rehearsed_minutes": round(decoder.rehearsed_seconds / 60, 1),
        "compared_steps": decoder.compared_steps,
        "compared_minutes": round(decoder.compared_seconds / 60, 1),
        "compared_share": AFTER,
        "decoder_parameters": sum(value.numel() for value in decoder.model.decoder.parameters()),
        "held_out_loss_nats": [round(value, 4) for value in losses],
    }


@contextmanager
def _progress(part: str) -> Iterator[Callable[[int, str], None]]:
    """A bar for a part of the training, and what tells its step there."""
    with _bar() as bar:
        task = bar.add_task(part, total=None)
        yield lambda step, text: bar.update(task, description=f"{part} step {step}: {text}")


def _named(losses: Mapping[str, float]) -> str:
    return " ".join(f"{name} {value:.3f}" for name, value in losses.items())


def _nats(values: Sequence[float]) -> str:
    return "/".join(f"{value:.2f}" for value in values) + " nats"


def _bar() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=_console)


def train(
    minutes: Annotated[float, typer.Option(help="training time of this run, in minutes; run again to go on")] = 1e9,
    folder: Annotated[Path, typer.Option(help="where the run keeps its data and state")] = Path("runs/embedded"),
    target: Annotated[Path, typer.Option(help="where the checkpoint is written")] = CHECKPOINT,
    pieces: Annotated[int, typer.Option(help="pieces of 30 s to render for training")] = Recipe.pieces,
    held_out: Annotated[int, typer.Option(help="pieces kept from training, for validation")] = Recipe.held_out,
    seed: Annotated[int, typer.Option(help="names the data and the first weights")] = Recipe.seed,
    filters: Annotated[int, typer.Option(help="filters of the codec's outermost layer")] = Recipe.filters,
    layers: Annotated[int, typer.Option(help="blocks of the decoder")] = Recipe.layers,
    width: Annotated[int, typer.Option(help="width of the decoder, a multiple of 64")] = Recipe.width,
    codec_minutes: Annotated[
        float, typer.Option(help="training time of the codec over all runs")
    ] = Recipe.codec_minutes,
    refine_minutes: Annotated[
        float, typer.Option(help="further training time of the codec's decoder over all runs")
    ] = Recipe.refine_minutes,
    text_steps: Annotated[
        int, typer.Option(help="steps in which the text encoder alone learns to tell styles")
    ] = Recipe.text_steps,
    decoder_minutes: Annotated[
        float, typer.Option(help="training time of the decoder over all runs")
    ] = Recipe.decoder_minutes,
    distil_minutes: Annotated[
        float, typer.Option(help="time in which the trained decoder learns to play as if guided, over all runs")
    ] = Recipe.distil_minutes,
    rehearse_minutes: Annotated[
        float, typer.Option(help="time in which the decoder learns from its own playing and from pushes, over all runs")
    ] = Recipe.rehearse_minutes,
    compare_minutes: Annotated[
        float, typer.Option(help="time in which the decoder compares takes of its own under pushes, over all runs")
    ] = Recipe.compare_minutes,
    chord_studies: Annotated[
        int, typer.Option(help="pieces of every chord quality that pushes lead to", min=1)
    ] = Recipe.chord_studies,
    note_studies: Annotated[
        int, typer.Option(help="pieces of every pitch class that pushes lead to", min=1)
    ] = Recipe.note_studies,
    device: Annotated[str, typer.Option(help="torch device: cpu or cuda")] = "cpu",
) -> None:
    """Train the embedded checkpoint from nothing, or go on where the last run stopped, and write it."""
    torch.set_num_threads(1)
    recipe = Recipe(
        pieces,
        held_out,
        seed,
        filters,
        layers,
        width,
        codec_minutes,
        refine_minutes,
        text_steps,
        decoder_minutes,
        distil_minutes,
        rehearse_minutes,
        compare_minutes,
        chord_studies,
        note_studies,
    )
    run = Run(folder, recipe, minutes, device)
    try:
        began = time.monotonic()
        held_corpus, corpus = run.corpus("held_out", recipe.held_out), run.corpus("train", recipe.pieces)
        codec = run.codec(corpus)
        codes, held_codes = run.codes(codec, corpus, "train"), run.codes(codec, held_corpus, "held_out")
        run.refine(codec, corpus)
        written = [piece(recipe.seed, "train", index) for index in range(len(codes))]
        lessons = Lessons(codes, written, codec.silence())
        rehearsed = run.rehearsed(run.distilled(run.decoder(lessons), lessons), codec, lessons)
        decoder = run.compared(rehearsed, codec)
        losses = validate(decoder, held_codes, held_corpus.captions)
        _console.print(f"held-out loss {'/'.join(f'{value:.3f}' for value in losses)} nats at step {decoder.step}")
        write_checkpoint(target, codec.export(), decoder)
        (target / TRAINING_FILE).write_text(json.dumps(told(recipe, codec, decoder, losses), indent=2) + "\n")
        _console.print(f"wrote {target} after {(time.monotonic() - began) / 60:.1f} minutes")
    except KeyboardInterrupt:
        _console.print("stopped; the same command goes on from the last minute")
        raise typer.Exit(130) from None
    except RfmError as error:
        _console.print(f"[red]{error}[/red]")
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(train)
