"""Generation over protocols: sampling, greedy and beam decoding, streaming, scoring."""
