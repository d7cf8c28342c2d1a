"""Examples of every command, shown below its help."""

import typer

EXAMPLES = {
    "run": ("overread run --config config/node.toml",),
    "listen": ("overread listen --config config/node.toml",),
    "work": ("overread work --config config/node.toml",),
    "deliver": ("overread deliver --config config/node.toml",),
    "web": ("overread web --config config/node.toml",),
    "check-config": ("overread check-config config/node.toml",),
    "process": (
        "overread process study/ --out results/",
        "overread process study/ --out results/ --model brain-ventricles --json",
    ),
    "explain": ("overread explain 1.2.840.113619.2.1", "overread explain study/ --config config/node.toml"),
    "simulate": ("overread simulate --config new.toml --running config/node.toml --since 7d",),
    "decide": ("overread decide 1.2.840.113619.2.1", "overread decide --since 2d"),
    "retention": ("overread retention --dry-run", "overread retention"),
    "send": ("overread send study/ --to pacs.example.org:104 --called-ae PACS",),
    "echo": ("overread echo --to pacs.example.org:104 --called-ae PACS",),
    "status": ("overread status", "overread status --json"),
    "jobs list": ("overread jobs list --state FAILED", "overread jobs list --study 1.2.840.113619.2.1"),
    "jobs show": ("overread jobs show 12",),
    "jobs retry": ("overread jobs retry 12",),
    "jobs cancel": ("overread jobs cancel 12",),
    "deliveries list": ("overread deliveries list --destination pacs",),
    "deliveries show": ("overread deliveries show 13",),
    "deliveries retry": ("overread deliveries retry 13 14", "overread deliveries retry --failed-to pacs"),
    "deliveries hold": ("overread deliveries hold pacs",),
    "deliveries release": ("overread deliveries release pacs",),
    "destinations list": ("overread destinations list",),
    "destinations test": ("overread destinations test pacs", "overread destinations test pacs --send-trial-object"),
    "notices list": ("overread notices list --state OPEN",),
    "notices show": ("overread notices show 3F2A9C",),
    "notices acknowledge": ("overread notices acknowledge 3F2A9C --by 'Dr Meier'",),
    "audit verify": ("overread audit verify",),
    "models list": ("overread models list",),
    "models check": ("overread models check config/models/brain-ventricles",),
    "models new": ("overread models new models/liver --onnx liver.onnx",),
    "models show": ("overread models show config/models/brain-ventricles",),
    "models card": ("overread models card models/liver --out CARD.md",),
    "models keys": ("overread models keys maker.key",),
    "models sign": ("overread models sign models/liver --key maker.key",),
    "models verify": ("overread models verify models/liver --key maker.pub",),
    "models import monai": ("overread models import monai bundle/ models/spleen",),
    "models import nnunet": ("overread models import nnunet results/ models/liver --configuration 3d_fullres",),
    "render": ("overread render 12 --profile weasis --out rendered/",),
    "similar": ("overread similar 1.2.840.113619.2.1 --limit 5",),
    "demo": ("overread demo",),
}


def add_examples(app: typer.Typer, path: str = "") -> None:
    """Put them below the help of each command that is registered."""
    for command in app.registered_commands:
        name = command.name or (command.callback.__name__.replace("_", "-") if command.callback else "")
        if shown := EXAMPLES.get(f"{path}{name}"):
            command.epilog = "\n\n".join(("For example:", *shown))
    for group in app.registered_groups:
        if group.typer_instance is not None:
            add_examples(group.typer_instance, f"{path}{group.name} ")
