// A photo of the visitor's own: cut to a square and scaled here, so that only these pixels are sent.
const say = (text) => (element.querySelector("[data-says]").textContent = text);
let said = "";
const judge = async (file) => {
  if (!file) return;
  say("Reading the picture ...");
  try {
    const side = Number(element.querySelector("[data-side]").dataset.side);
    const picture = await createImageBitmap(file, { imageOrientation: "from-image" });
    const part = Math.min(picture.width, picture.height);
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = side;
    const ground = canvas.getContext("2d");
    ground.fillStyle = "#fff"; // what a viewer shows behind transparency
    ground.fillRect(0, 0, side, side);
    ground.imageSmoothingQuality = "high";
    ground.drawImage(
      picture, Math.floor((picture.width - part) / 2), Math.floor((picture.height - part) / 2), part, part, 0, 0, side, side,
    );
    say("The model looks at it ...");
    trigger("click", { pixels: canvas.toDataURL("image/png") });
  } catch {
    trigger("click", { unreadable: true });
    said = "This browser cannot read that file as a picture: choose a PNG, JPEG, WebP or AVIF.";
    say(said);
  }
};
element.addEventListener("change", (event) => {
  if (event.target.matches("input[type=file]")) judge(event.target.files[0]);
});
element.addEventListener("click", (event) => {
  const take = event.target.closest("button[data-take]");
  if (!take) return;
  say("The model looks at it ...");
  trigger("click", { take: take.dataset.take, number: Math.floor(Math.random() * 1000) });
});
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => {
  event.preventDefault();
  judge(event.dataTransfer.files[0]);
});
watch("done", () => {
  say(said);
  said = "";
});
