"""report.json is the truth (`document`); terminal, one-file HTML, JUnit and SARIF are made from it and nothing else."""
