# Turns the dictionary file of Debian's dict-gcide (zcat gcide.dict.dz) into plain prose: an entry a paragraph, with an
# empty line between entries; without the licence at its head, source tags, cross-reference braces and pronunciations.
#
# Use: tr -cd '\12\40-\176' | LC_ALL=C awk -f scripts/dictionary-prose.awk

function flush() {
    gsub(/ +,/, ",", text)
    if (text != "") print text "\n"
    text = ""
}

# An entry begins at the margin after an empty line; the first real one has its pronunciation between backslashes.
/^[^ ]/ && after_blank { flush(); if (/\\/) inside = 1 }

{ after_blank = /^[ \t]*$/ }
!inside || after_blank { next }

{
    gsub(/\[(1913 Webster|WordNet 1\.5|PJC|Webster 1913 Suppl\.|Century Dict\. 1906)[^]]*\]/, "")
    gsub(/\\[^\\]*\\/, "")                  # \Lar"go\
    gsub(/\([^()]*["`\[][^()]*\)/, "")      # (l[a^]r"g[-o])
    gsub(/[{}]/, "")
    gsub(/[ \t]+/, " ")
    sub(/^ /, "")
    if ($0 != "") text = text (text == "" ? "" : " ") $0
}

END { flush() }
