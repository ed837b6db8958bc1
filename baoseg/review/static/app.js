// Starts the page that the server is for.
import { get, say } from "./common.js";

try {
  const about = await get("api/about");
  const { start } = await import(about.mode === "tag" ? "./tag.js" : "./review.js");
  await start(about);
} catch (error) {
  say(error.message);
}
