"""Text from a language model, printed as it is written.

    python examples/generate.py "Why is the sky blue?" [--model smollm2-135m|FILE.gguf] [--temperature 0.7]

A known name is fetched once (93 MB) and kept in the cache directory.
"""

from __future__ import annotations

import argparse

from unify import models


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("question", nargs="?", default="What is the capital of France?")
    parser.add_argument("--model", default="smollm2-135m", help="a known name, or the path of a GGUF file")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--temperature", type=float, default=0.0, help="0 always takes the likeliest token")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()

    model, tokenizer = models.load(asked.model)
    sampling = models.Sampling(temperature=asked.temperature, top_p=0.95, seed=asked.seed)
    generator = models.Generator(model, tokenizer, sampling)

    # The generator keeps keys and values from call to call: the second prompt begins with the first, so of it only
    # what is new is run.
    messages = []
    for question in (asked.question, "Say it in other words."):
        messages.append({"role": "user", "content": question})
        print(f"> {question}")
        prompt = tokenizer.chat(messages)
        answer = generator.generate(prompt, asked.max_tokens, on_text=lambda text: print(text, end="", flush=True))
        messages.append({"role": "assistant", "content": answer.text})
        print(
            f"\n  {answer.prompt_tokens} prompt tokens, {answer.reused_tokens} of them kept from before; "
            f"{answer.decode_tokens_per_s:.0f} tokens/s on {model.device}"
        )


if __name__ == "__main__":
    main()
