// Photos from outside the index: chosen from the disk, dropped on the page, or pasted.

// `onFiles` gets the files, and "more" or "less" where they are added to the query.
export function bringing(page, onFiles) {
  const input = page.getElementById("file");
  const drop = page.getElementById("drop");
  let choosing = null;
  for (const [name, kind] of [["choose", null], ["add-more", "more"], ["add-less", "less"]]) {
    page.getElementById(name).addEventListener("click", () => {
      choosing = kind;
      input.click();
    });
  }
  input.addEventListener("change", () => {
    onFiles(input.files, choosing);
    choosing = null;
    input.value = "";
  });
  for (const name of ["dragover", "drop", "dragleave"]) {
    window.addEventListener(name, (event) => {
      event.preventDefault();
      drop.classList.toggle("over", name === "dragover");
      if (name === "drop") {
        const files = [...event.dataTransfer.files];
        const images = files.filter((file) => file.type.startsWith("image/"));
        onFiles(images.length ? images : files.slice(0, 1));
      }
    });
  }
  window.addEventListener("paste", (event) => onFiles(event.clipboardData.files));
}
