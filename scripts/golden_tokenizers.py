#!/usr/bin/env python3
"""golden_tokenizers.py OUT: small tokenizer.json files of each kind that nibble reads, and ids of hard strings.

Made with the tokenizers package (pip install tokenizers==0.23.3); tests/test_bpe.c compares. A line of KIND.ids is a text in
hexadecimal, a tab, and the ids of `encode(text, add_special_tokens=False)`; bytes that are not UTF-8 are U+FFFD there, one
each, as nibble takes them.
"""
import codecs
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

codecs.register_error("one each", lambda e: ("\ufffd", e.start + 1))

# How the four kinds cut texts: the patterns and normalizers of the published files.
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace("{1,3}", "")

TEACHER = """the quick brown fox jumps over the lazy dog and the other animals that there are in the thick forest
it's what we're told, they'll say; I'd've thought you're right, don't you? THEY'LL SHOUT, I'M SURE, WE'VE HEARD
def function(value, other=None):\n    if value is None:\n        return [other] * 12\n\treturn {"a": 1.5e-3}
1234567890 1999 2024-11-29 3.14159 100,000 0x7fff 1/2 \u00bd \u00b2 \u0664\u0662 \u2167 \u4e00\u4e8c\u4e09
caf\u00e9 na\u00efve \u00fcber stra\u00dfe \u010desky \u0417\u0434\u0440\u0430\u0432\u0441\u0442\u0432\u0443\u0439 \u03ba\u03cc\u03c3\u03bc\u03b5
\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\u6211\u4eec\u53bb\u516c\u56ed\u5427\uff01 \u3053\u3093\u306b\u3061\u306f\u4e16\u754c \uc548\ub155\ud558\uc138\uc694
\u0627\u0644\u0633\u0644\u0627\u0645 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35
\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f1e9\U0001f1ea -- ... !!! ??? <<>> :: -> => ==\n\n\n
""" * 4

TEXTS = [
    "", "a", " ", "  ", "\n", "\t", "the quick brown fox", " the", "  the", "   the quick", "the  quick   brown    fox ",
    "trailing   ", "trailing\n", "two\n\n", "three\n\n\nlines", "a\n b\n  c\n   d", "\r\n\r\nwindows\r\n", "tab\tand\t\ttabs\t",
    "it's we're they'll I'd you've I'm don't", "IT'S WE'RE THEY'LL I'D YOU'VE I'M DON'T", "'s 't 're 'S'T'RE ''s '\u017f",
    "1 12 123 1234 12345 1234567890", "a1b22c333d4444", "\u00bd \u00b2x \u2167 \u0664\u0662\u0661 1\u00b9", "3.14159,100,000",
    "caf\u00e9 cafe\u0301 na\u00efve nai\u0308ve", "\u212b \u00c5 A\u030a", "\u1e9b\u0323 q\u0323\u0307 q\u0307\u0323",
    "\uac00 \u1100\u1161 \u1100\u1161\u11a8", "\u0958 \u0915\u093c \u2126 \u03a9", "\ufb01 \ufb00 stra\u00dfe",
    "\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002\u6211\u4eec", "\u3053\u3093\u306b\u3061\u306f \u304b\u3099 \u30ac", "\uc548\ub155\ud558\uc138\uc694",
    "\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645", "\u0928\u092e\u0938\u094d\u0924\u0947", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e04\u0e23\u0e31\u0e1a",
    "\U0001f600\U0001f600 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \u2764\ufe0f \U0001f1e9\U0001f1ea", "\U0001f3fb\U0001f44d\U0001f3fd",
    "\u00a0nbsp\u00a0\u00a0x", "\u3000ideographic\u3000", "\u2028line\u2029par", "\u200bzero\u200d\ufeffwidth", "\u180evowel \u180e\u180e x", "\x85next\x85\x85",
    "\x00nul\x00", "\x1b[0m\x07", "x\u0301\u0302\u0303y", "\u0301alone", "\n\u0301", "\ufffd\ufffe\uffff", "\U000e0041\U0010ffff",
    "!!!???...", " !", "a!b", "\"quoted\" (and) [so] {on}", "path/to\\file.c:12", "a_b-c+d*e/f=g", "<<>> <a href='x'>", "$100 \u20ac5 \u00a37",
    "def f(x):\n    return x * 2\n\n\n\tpass\n", "    \n  \n \n\n x", "x \n y", "x\n \ny", "x  \n\n  y", " \n", "\n ", "!\n\n!", ".\r\n\r\n.",
    "<|endoftext|>", "a<|endoftext|>b", "<|endoftext|><|endoftext|>", "<|endoftext", "<|<|endoftext|>|>", " <|endoftext|> ",
    "<|begin_of_text|>x<|end_of_text|>", "<|im_start|>user\nhi<|im_end|>\n", "<think>\nso\n</think>\n\n", "x <mask>  y", "x<mask>y  <sp> z", "cafe\u0301<caf\u00e9>",
    "<cafe\u0301> <caf\u00e9>", "long" * 40, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababababab", " " * 50 + "x", "\n" * 40, "\u4e00" * 60, "-" * 77,
    b"bad \xff\xfe bytes \xc3", b"\xc0\xaf\xed\xa0\x80", b"\xf0\x9f\x98", b"\xe2\x82 \x80",
    TEACHER[:400],
]


def learn(tokenizer, vocab, specials):
    trainer = trainers.BpeTrainer(vocab_size=vocab, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), special_tokens=specials,
                                  show_progress=False)
    tokenizer.train_from_iterator(TEACHER.split("\n") + [TEACHER], trainer)
    return tokenizer


def make(kind):
    t = Tokenizer(models.BPE(ignore_merges=kind == "llama3"))
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt2")
    split = pre_tokenizers.Split(Regex(QWEN if kind == "qwen" else LLAMA3), "isolated")
    t.pre_tokenizer = level if kind == "gpt2" else pre_tokenizers.Sequence([split, level])
    t.normalizer = normalizers.NFC() if kind == "qwen" else None
    t.decoder = decoders.ByteLevel()
    if kind == "gpt2":
        learn(t, 420, [])
        t.add_special_tokens([AddedToken("<|endoftext|>", normalized=True, special=True)])
    elif kind == "llama3":
        learn(t, 500, [])
        t.add_special_tokens(["<|begin_of_text|>", "<|end_of_text|>"])
        t.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                          special_tokens=[("<|begin_of_text|>", t.token_to_id("<|begin_of_text|>"))])])
    elif kind == "qwen":
        learn(t, 500, [])
        t.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
        t.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False),
                      AddedToken("<caf\u00e9>", normalized=True), AddedToken("<mask>", normalized=False, lstrip=True),
                      AddedToken("<sp>", normalized=False, rstrip=True)])
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    else:
        learn(t, 460, ["<|endoftext|>"])
        t.add_tokens([AddedToken("  ", normalized=True), AddedToken("    ", normalized=True)])
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def main(out):
    for kind in ("gpt2", "llama3", "qwen", "olmo2"):
        t = make(kind)
        path = f"{out}/{kind}.json"
        text = json.loads(t.to_str())
        if kind == "gpt2":  # as older versions wrote them
            text["model"]["merges"] = [" ".join(m) for m in text["model"]["merges"]]
        with open(path, "w", encoding="utf-8") as f:
            json.dump(text, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")
        t = Tokenizer.from_file(path)
        with open(f"{out}/{kind}.ids", "w", encoding="ascii") as f:
            for text in TEXTS:
                raw = text if isinstance(text, bytes) else text.encode()
                ids = t.encode(raw.decode("utf-8", "one each"), add_special_tokens=False).ids
                f.write(raw.hex() + "\t" + " ".join(map(str, ids)) + "\n")


main(sys.argv[1])
