// findings.js: what stands out in each run, in words; every sentence leads to its picture.

/** Opens the section of a finding on the picture that shows it. */
function goTo(finding) {
  const section = themes.find((theme) => theme.theme.name === finding.theme);
  if (!section) return;
  section.show(finding);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  section.section.scrollIntoView({ behavior: still ? "auto" : "smooth" });
}

function findingNode(finding) {
  if (!themes.some((theme) => theme.theme.name === finding.theme)) return element("span", {}, finding.text);
  const link = element("a", { href: "#", title: "Show the picture" }, finding.text);
  link.addEventListener("click", (event) => {
    event.preventDefault();
    goTo(finding);
  });
  return link;
}

/** One line a kind: the worst, and the next ones folded away. */
function kindNode(kind, findings) {
  const [worst, ...others] = findings.map(findingNode);
  const line = element("li", {}, element("b", {}, kind), " ", worst);
  if (others.length) {
    const list = element("ul", {}, ...others.map((node) => element("li", {}, node)));
    line.append(" ", element("details", {}, element("summary", {}, `${others.length} more`), list));
  }
  return line;
}

function drawFindings(section, into) {
  const measured = runs.map((run, index) => ({ run, index })).filter(({ run }) => run.findings);
  section.hidden = measured.length === 0;
  into.replaceChildren(...measured.map(({ run, index }) => {
    const box = element("div", { class: "finding" }, runCaption(index).node);
    const kinds = unique(run.findings.map((finding) => finding.kind));
    const lines = kinds.map((kind) => kindNode(kind, run.findings.filter((finding) => finding.kind === kind)));
    box.append(lines.length ? element("ul", {}, ...lines) : element("p", { class: "soft" }, "Nothing crosses a threshold."));
    return box;
  }));
}
