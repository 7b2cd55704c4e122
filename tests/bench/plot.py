"""Draws what tests/bench.sh found: plot.py FILE.json DIRECTORY

The same file gives the same bytes. What was not measured is not drawn, and a picture of it that is there stays.
"""

import json
import sys
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

# Of Okabe and Ito: colours that everybody can tell apart.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#CC79A7", "#7F7F7F"
BAR = "#B22222"
WIDTH = 8.0
SIDES = {"worker": "", "failing": "5 % fail once", "10000-endpoints": "10,000 endpoints", "no-journal": "no journal",
         "stored": "recorder and PostgreSQL", "two-workers": "two workers"}
CASES = {"base": "1 KiB, one endpoint", "16k": "16 KiB", "128k": "128 KiB", "fan-out-4": "4 endpoints an event",
         "fan-out-32": "32 endpoints an event", "tls": "TLS", "close": "no keep-alive"}
PROCESSES = [("client", "worker", BLUE, "o"), ("broker", "RabbitMQ", ORANGE, "s"), ("receiver", "receiver", GREY, "d"),
             ("recorder", "recorder", GREEN, "^"), ("database", "PostgreSQL", PURPLE, "v")]

plt.rcParams.update({
    "svg.hashsalt": "magnetite",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E5E5E5",
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",
    "legend.frameon": False,
})


def rows(found):
    """What is drawn of the drains: a label, the raw loop's runs and the side's, in order of the rounds."""
    for case in found["cases"]:
        runs = {}
        for run in sorted(case["runs"], key=lambda run: run["round"]):
            runs.setdefault(run["side"], []).append(run)
        for side in runs:
            # The plain worker of a case that is about another one is base's again.
            if side == "raw" or side == "worker" and case["name"] not in CASES:
                continue
            yield CASES.get(case["name"]) or SIDES[side], runs["raw"], runs[side]


def middle(runs, key):
    values = [key(run) for run in runs]
    return median(values) if None not in values else None


def throughput(found, axes):
    for place, (label, raw, side) in enumerate(rows(found)):
        ratios = [one["per_second"] / other["per_second"] for one, other in zip(side, raw)]
        axes.barh(place, median(ratios), height=0.6, color=BLUE)
        axes.plot(ratios, [place] * len(ratios), "o", markersize=3, color="black", alpha=0.6)
        rates = [middle(runs, lambda run: run["per_second"]) for runs in (side, raw)]
        axes.text(1.015, place, "{:,.0f} of {:,.0f}/s".format(*rates), va="center", transform=axes.get_yaxis_transform())
    name_rows(axes, found)
    bar_across(axes, 0.8, "bar for 1 KiB: 0.8")
    axes.set_xlim(0, max(1.05, axes.get_xlim()[1]))
    axes.set_xlabel("deliveries a second, of the raw loop's in the same round\n(blue: median, dots: rounds, right: medians)")


def cpu(found, axes):
    """On a logarithmic scale, because large bodies cost many times what small ones do: hence no stacks."""
    for place, (label, raw, side) in enumerate(rows(found)):
        raw_us = middle(raw, lambda run: run["cpu_us"]["client"])
        axes.plot(raw_us, place, "o", color="black", markerfacecolor="none", markersize=6, zorder=4, label="raw loop")
        for process, name, colour, marker in PROCESSES:
            us = middle(side, lambda run: run["cpu_us"][process])
            if us:
                axes.plot(us, place, marker, color=colour, markersize=6, linestyle="", zorder=3, label=name)
        axes.plot([1.35 * raw_us] * 2, [place - 0.35, place + 0.35], color=BAR, linewidth=1.5,
                  label="1.35 times the raw loop (bar for 1 KiB)")
    name_rows(axes, found)
    named = dict(zip(*reversed(axes.get_legend_handles_labels())))
    axes.legend(named.values(), named.keys(), loc="upper center", bbox_to_anchor=(0.4, -0.14), ncols=3)
    axes.grid(visible=True, axis="y")
    axes.set_xscale("log")
    round_ticks(axes.xaxis, *axes.get_xlim())
    axes.set_xlabel("processor time in µs a delivery, median")


def name_rows(axes, found):
    labels = [label for label, _, _ in rows(found)]
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")


def bar_across(axes, at, text):
    axes.axvline(at, color=BAR, linewidth=1.2)
    axes.text(at, 1.01, text, color=BAR, ha="center", va="bottom", transform=axes.get_xaxis_transform())


def latency(found, axes):
    for steady, colour, style in zip(found["latency"], (GREEN, BLUE, ORANGE), ("-", "--", "-.")):
        tail(axes, steady["latency_ms"], f"{steady['per_second']:,} events/s", colour, style)
    finish_tail(axes, 10, "bar for p99 at 1,000/s: 10 ms", "ms from when an event was due to its receipt")
    axes.legend(loc="lower right")


def lateness(found, axes):
    steady = found["retry_lateness"]
    tail(axes, steady["lateness_ms"], "", BLUE, "-")
    what = f"ms that second attempts are late,\n{steady['per_second']:,} first ones failing a second"
    finish_tail(axes, 25, "bar for p99: 25 ms", what)


# The percentiles, by how much lies above them.
MARKS = [0, 50, 90, 99, 99.9, 99.99]


def tail(axes, spread, label, colour, style):
    """Percentiles as a line that ends at the last one that a thousand values would have."""
    known = [(p, ms) for p, ms in spread["curve"] if p < 100 and spread["count"] * (1 - p / 100) >= 1]
    axes.plot([100 / (100 - p) for p, _ in known], [ms for _, ms in known], color=colour, linestyle=style,
              linewidth=1.6, marker="o", markersize=3, label=label)


def finish_tail(axes, bar, text, what):
    axes.axhline(bar, color=BAR, linewidth=1.2)
    axes.text(1.05, bar * 1.06, text, color=BAR, va="bottom", bbox={"facecolor": "white", "linewidth": 0, "pad": 1})
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(1, 10_000)
    low, high = axes.get_ylim()
    axes.set_ylim(low, max(high, 2 * bar))
    places = [100 / (100 - p) for p in MARKS]
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_major_formatter(FixedFormatter(["fastest"] + [f"p{p}" for p in MARKS[1:]]))
    axes.xaxis.set_minor_locator(NullLocator())
    round_ticks(axes.yaxis, *axes.get_ylim())
    axes.set_ylabel(what)


def round_ticks(axis, low, high):
    """1, 2, 5, 10 and so on, in full, on a logarithmic axis."""
    ticks = [factor * 10**power for power in range(-2, 6) for factor in (1, 2, 5)]
    shown = [tick for tick in ticks if low <= tick <= high]
    axis.set_major_locator(FixedLocator(shown))
    axis.set_major_formatter(FixedFormatter([f"{tick:,g}" for tick in shown]))
    axis.set_minor_locator(NullLocator())


def memory(found, axes):
    steady = found["steady"]
    samples = steady["memory_mib"]
    tenth = len(samples) // 10
    for begin in (tenth, len(samples) - tenth):
        axes.axvspan(begin, begin + tenth, color=GREY, alpha=0.15, linewidth=0)
    axes.plot(range(len(samples)), samples, color=BLUE, linewidth=1.4)
    if steady["memory_max_mib"]:
        for begin, most in zip((tenth, len(samples) - tenth), steady["memory_max_mib"]):
            axes.text(begin + tenth / 2, most * 1.02, f"at most {most:.0f}", ha="center", va="bottom")
    axes.set_ylim(0, max(samples) * 1.25)
    axes.set_xlim(0, len(samples))
    axes.set_xlabel(f"seconds at {steady['per_second']:,} events/s; grey: the second and the last tenth")
    axes.set_ylabel("worker's resident memory in MiB")


def draw(directory, name, height, fill, found):
    figure, axes = plt.subplots(figsize=(WIDTH, height))
    fill(found, axes)
    figure.savefig(directory / f"{name}.svg", bbox_inches="tight", pad_inches=0.15, metadata={"Date": None})
    plt.close(figure)
    print(directory / f"{name}.svg")


def main(file, directory):
    found = json.loads(Path(file).read_text())
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    if found["cases"]:
        height = 1 + 0.32 * len(list(rows(found)))
        draw(directory, "throughput", height, throughput, found)
        draw(directory, "cpu", height, cpu, found)
    if found["latency"]:
        draw(directory, "latency", 3.6, latency, found)
    if found["retry_lateness"]:
        draw(directory, "retry-lateness", 3.6, lateness, found)
    if found["steady"]:
        draw(directory, "memory", 3.0, memory, found)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: plot.py FILE.json DIRECTORY; tests/bench.sh writes such a file, and --plot calls this")
    main(*sys.argv[1:])
