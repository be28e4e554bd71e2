"""What carries a `Run` out: settings and files, models, data, the loop, what people see."""
