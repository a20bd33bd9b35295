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
  const told = measured.filter(({ run }) => run.findings.length);
  const quiet = measured.filter(({ run }) => !run.findings.length);
  const boxes = told.map(({ run, index }) => {
    const kinds = unique(run.findings.map((finding) => finding.kind));
    const lines = kinds.map((kind) => kindNode(kind, run.findings.filter((finding) => finding.kind === kind)));
    return element("div", { class: "finding" }, runCaption(index).node, element("ul", {}, ...lines));
  });
  if (quiet.length) {
    const captions = quiet.map(({ index }) => runCaption(index).node);
    boxes.push(element("div", { class: "finding" }, ...captions, element("p", { class: "soft" }, "Nothing crosses a threshold.")));
  }
  into.replaceChildren(...boxes);
}
