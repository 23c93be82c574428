"""What each command is for, what it writes, and how it is used: the words of ``--help`` that no other file has."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Guide:
    """The words about one command.

    Attributes:
        line: in the list of commands.
        usage: what stands behind ``python -m experiments``.
        about: a paragraph.
        writes: which files, where.
        examples: at least three, each what stands behind ``python -m experiments`` (a launcher may stand before it).
    """

    line: str
    usage: str
    about: str
    writes: str
    examples: tuple[str, ...]


GUIDES = {
    "run": Guide(
        "compress a teacher by a method, score both, keep the row (the word may be left out)",
        "[run] method=NAME [ratio=R] [then=NAME] [lastly=NAME] [key=value ...] [-m]",
        "Compress a teacher by a method, score teacher and student by the same code, and compare them. The same "
        "command finds the same run: finished, it prints its row again; stopped, it goes on where it was.",
        "<runs>/<run_id>/: report.html, result.json (rows and where they come from), student.safetensors, masks.png, "
        "metrics.csv, a log of every stage; <runs>/leaderboard.csv",
        (
            "method=slimsam ratio=0.77",
            "method=slimsam ratio=0.77 then=ptq",
            "-m method=slimsam,scratch ratio=0.5,0.77 seed=0,1",
            "method=slimsam ratio=0.5 teacher=sam_vit_b data=sa1b data.root=FOLDER",
        ),
    ),
    "evaluate": Guide(
        "score one model under one protocol or several",
        "evaluate checkpoint=NAME|FILE|FOLDER [evaluation=NAME] [data.root=FOLDER] [key=value ...]",
        "Score one model: a name, a checkpoint's file of any layout, or an exported folder. Images are encoded once "
        "for all protocols. A pass that was stopped goes on where it was.",
        "<runs>/evaluations/<name>/, or out=FOLDER: instances.jsonl (a record an instance) and the rows",
        (
            "evaluate checkpoint=sam_pocket evaluation=shapes",
            "evaluate checkpoint=mobile_sam evaluation=coco_box data.root=COCO",
            "evaluate checkpoint=sam_pocket evaluation=shapes 'evaluation.protocols=[box_single,edgesam]'",
            "evaluate checkpoint=tinysam evaluation=tinysam detections=FILE data.root=COCO",
        ),
    ),
    "cost": Guide(
        "parameters and MACs of a teacher and its student, without weights or data",
        "cost [method=NAME] [teacher=NAME] [ratio=R] [key=value ...]",
        "Count parameters, bytes and multiply-accumulates of a teacher and of the student that a method would make of "
        "it, from shapes alone: no weights, no data, seconds. Without a method a teacher alone; without a teacher too, "
        "all of them and SlimSAM's students.",
        "nothing",
        (
            "cost",
            "cost method=slimsam ratio=0.77",
            "cost teacher=sam_vit_b method=slimsam ratio=0.5 format=json",
            "cost teacher=sam_vit_h method=mobilesam student=tiny_vit_5m",
        ),
    ),
    "latency": Guide(
        "time several models in turns in one process: ratios that compare",
        "latency checkpoint=NAME|FILE|FOLDER,... [results=true] [batch=N] [out=FILE] [key=value ...]",
        "Time image encoders and decoders of several models, each in its turn in every round, and show what each takes "
        "of the first one's time, with a 95 % interval. Milliseconds of two days or two processes do not compare; "
        "these ratios do. results=true times a model of every shape in the committed rows, too.",
        "with out=FILE: rows as JSON; those of the committed models stand in results/latency/",
        (
            "latency checkpoint=sam_pocket,runs/RUN/student.safetensors",
            "latency checkpoint=sam_pocket,pocket-onnx,slimsam-int8 batch=8",
            "latency checkpoint=sam_pocket results=true out=results/latency/sam_pocket.json",
        ),
    ),
    "convert": Guide(
        "write a checkpoint in another layout",
        "convert checkpoint=NAME|FILE to=hf|meta|mobile_sam|sampress out=PATH",
        "Read a checkpoint in any layout that evaluate reads and write it in another one; what it is goes along. "
        "Files are read as tensors and plain data: nothing in them is run.",
        "out=PATH: a folder (hf), or a file that ends in .pth (meta, mobile_sam) or .safetensors (sampress)",
        (
            "convert checkpoint=runs/RUN/student.safetensors to=hf out=slimsam-77",
            "convert checkpoint=mobile_sam to=sampress out=mobile_sam.safetensors",
            "convert checkpoint=slimsam-77 to=meta out=slimsam-77.pth",
            "convert checkpoint=last.ckpt checkpoint.decoder_heads=4 to=sampress out=mine.safetensors",
        ),
    ),
    "export": Guide(
        "write a model for another runtime: ONNX, OpenVINO, torch.export",
        "export checkpoint=NAME|FILE out=FOLDER [to=onnx|openvino|torch] [precision=fp32|bf16|int8|w8|w4]",
        "Write a model as two files, image encoder and prompt encoder with mask decoder, for programs without this "
        "project. Each export is run and compared with PyTorch before it is there. int8 needs a quantised checkpoint; "
        "w8 and w4 store the weights of linear layers in so many bits and compute in float32.",
        "out=FOLDER: encoder and decoder, and export.json, which says what the folder holds",
        (
            "export checkpoint=sam_pocket to=onnx out=pocket-onnx",
            "export checkpoint=mobile_sam to=openvino precision=bf16 out=mobile-sam-openvino",
            "export checkpoint=runs/RUN/student.safetensors to=onnx precision=int8 out=slimsam-int8",
            "export checkpoint=sam_vit_b to=onnx precision=w4 group_size=64 out=sam-w4",
        ),
    ),
    "predict": Guide(
        "masks of one image for a box or points",
        "predict checkpoint=NAME|FILE|FOLDER image=FILE [box=[x0,y0,x1,y1]] [points=[[x,y],...]] [out=FOLDER]",
        "Segment what a box or points ask for, in pixels of the image as viewers show it. Box and points together "
        "are one prompt. Brackets are quoted where the shell would take them.",
        "out=FOLDER (here, by default): the masks as images, and the image with them drawn over it",
        (
            "predict checkpoint=sam_pocket image=photo.jpg 'box=[120,90,560,470]'",
            "predict checkpoint=mobile_sam image=photo.jpg 'points=[[300,200]]' multimask=true out=masks",
            "predict checkpoint=FILE image=photo.jpg 'points=[[300,200],[40,40]]' 'labels=[1,0]'",
        ),
    ),
    "everything": Guide(
        "all masks of images, or how good they are",
        "everything checkpoint=NAME|FILE|FOLDER image=FILE|FOLDER [out=FOLDER] [generator=NAME] [key=value ...]",
        "Find all masks of an image or of each image of a folder, from a grid of points; or, with evaluation= "
        "instead of image=, score them on a data set. What is there already is not done again.",
        "out=FOLDER (everything, by default): masks as JSON and a drawing an image; scores: <runs>/everything",
        (
            "everything experiment=everything_pocket checkpoint=sam_pocket image=photo.jpg out=FOLDER",
            "everything checkpoint=mobile_sam image=FOLDER generator=hierarchical draw=false",
            "everything checkpoint=sam_pocket evaluation=shapes experiment=everything_pocket",
        ),
    ),
    "compare": Guide(
        "two evaluations, instance by instance",
        "compare FOLDER FOLDER [protocol=NAME] [count=N] [out=FOLDER]",
        "Pair two evaluations of the same instances: the difference with its interval, by size, and where the second "
        "one loses and gains most. Folders are those that evaluate wrote, or their names in <runs>/evaluations.",
        "nothing; with out=FOLDER: comparison.csv, comparison.md and images of the extremes",
        (
            "compare sam_pocket-shapes slimsam-shapes",
            "compare FOLDER FOLDER protocol=box_single count=20",
            "compare first=FOLDER second=FOLDER out=comparison data.root=COCO",
        ),
    ),
    "table": Guide(
        "measured rows and published figures in one table",
        "table [protocol=NAME] [data=NAME] [format=table|csv|markdown|latex|json] [out=FILE]",
        "Put measured rows (seeds together, beside their teacher) and published figures of the same protocol into one "
        "table for each data set and protocol, each marked as what it is. runs=none: the committed rows alone.",
        "nothing; with out=FILE: that file",
        (
            "table",
            "table data=coco format=latex out=table.tex",
            "table protocol=box_point runs=none format=markdown",
        ),
    ),
    "leaderboard": Guide(
        "every row, and what papers say, as CSV, Markdown and one page",
        "leaderboard [out=FOLDER] [runs=FOLDER] [format=table|json]",
        "Gather all measured rows, of the folder of runs and of the committed results, and the figures that papers "
        "published, each marked as what it is. The page opens from disk: a table to sort and filter, and plots.",
        "out=FOLDER (the folder of runs, by default): leaderboard.csv, leaderboard.md, leaderboard.html and pages/",
        (
            "leaderboard",
            "leaderboard out=leaderboard data=shapes",
            "leaderboard results=false published=false format=json",
        ),
    ),
    "doctor": Guide(
        "what is installed and found here, and the command that brings what is not",
        "doctor [data.root=FOLDER] [runs=FOLDER] [format=table|json]",
        "Look at Python, packages, devices, disk, data sets, checkpoints, loggers and launchers, without a network. "
        "Each missing thing has the command that brings it. Exit status 0: a run can work; 1: something that it needs "
        "is broken.",
        "nothing",
        (
            "doctor",
            "doctor data.root=COCO",
            "doctor engine.device=cuda format=json",
        ),
    ),
    "completion": Guide(
        "a script that completes commands and settings at TAB: bash, zsh, fish",
        "completion bash|zsh|fish",
        "Print a script that completes commands, settings, their values and files at TAB, for sampress, and in bash "
        "and zsh for python -m experiments too. It asks no program while you type; print it again after an update.",
        "nothing: the script is printed; the examples install it",
        (
            "completion bash > ~/.sampress.bash && echo '. ~/.sampress.bash' >> ~/.bashrc",
            "completion zsh > ~/.sampress.zsh && echo '. ~/.sampress.zsh' >> ~/.zshrc",
            "completion fish > ~/.config/fish/completions/sampress.fish",
        ),
    ),
}
"""By command, in the order of the list."""
