"""What `isochat --help` prints, as typer makes it of `_cli`, for whom typer need not be imported.

`test_help_is_what_typer_makes_of_it` says what to put here when a command or its help has changed.
"""

TEXT = """\
Usage: isochat [OPTIONS] COMMAND [ARGS]...

  Ask chat models on Databricks Model Serving, through whichever client you
  choose.

  Tokens are never given on the command line, where every user of the machine
  can read them: set DATABRICKS_HOST and DATABRICKS_TOKEN, or use a profile of
  ~/.databrickscfg.

Options:
  --version             Print the version and end.
  --install-completion  Install completion for the current shell.
  --show-completion     Show completion for the current shell, to copy it or
                        customize the installation.
  -h, --help            Show this message and exit.

Commands:
  ask       Ask a chat model and print its answer.
  render    Print what would be sent, and send nothing.
  backends  List the backends and what each carries.
  serve     Run the local endpoint until Ctrl-C.
  doctor    Check the settings, the login and the endpoint.
  compare   Ask every backend the same thing and show every difference.
  demo      Ask every backend the same and compare.

  Exit codes: 0 all is well; 1 the answer was no; 2 said wrongly, or a setting
  is missing; 3 not logged in or not permitted; 4 busy, unreachable or too
  late: try again.
"""
