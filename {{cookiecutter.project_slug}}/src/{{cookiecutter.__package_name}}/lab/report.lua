-- pandoc's view of an executed notebook -> a report. Python has tidied the outputs before; this
-- gives each format its figures, its folded code and its links. FORMAT is pandoc's own.
local web = FORMAT:match("html") or FORMAT:match("gfm")
local folded, with_code, base = 30, false, "" -- a table of layers stays in sight

local function html(text)
  return pandoc.RawBlock("html", text)
end

local function details(class, label, blocks)
  local open = '<details class="' .. class .. '"><summary>' .. label .. "</summary>"
  if FORMAT:match("gfm") then
    open = "<details><summary>" .. label .. "</summary>\n"
  end
  return pandoc.List({ html(open) }) .. pandoc.List(blocks) .. pandoc.List({ html("</details>") })
end

local function escaped(text)
  return (text:gsub("&", "&amp;"):gsub("<", "&lt;"):gsub(">", "&gt;"))
end

-- Python in colour. pandoc's own way loads 0.8 s of grammars, and this is code at the margin.
local keywords = {}
for word in ("and as assert async await break class continue def del elif else except finally for "
  .. "from global if import in is lambda None nonlocal not or pass raise return True False try "
  .. "while with yield"):gmatch("%S+") do
  keywords[word] = "kw"
end
local kinds = { -- the first that fits at a place counts
  { "^#[^\n]*", "co" },
  { "^[fFrRbBuU]*(\"\"\".-\"\"\")", "st" },
  { '^[fFrRbBuU]*"[^"\n]*"', "st" },
  { "^[fFrRbBuU]*'[^'\n]*'", "st" },
  { "^%d[%w_.]*", "dv" },
  { "^[%a_][%w_]*", keywords },
  { "^%s+", "" },
  { "^[^%w%s]", "" },
}

local function coloured(code)
  local parts, at = {}, 1
  while at <= #code do
    local last, class = at, ""
    for _, kind in ipairs(kinds) do
      local first, stop = code:find(kind[1], at)
      if first then
        last, class = stop, kind[2]
        break
      end
    end
    local word = code:sub(at, last)
    class = type(class) == "table" and (class[word] or "") or class
    word = escaped(word)
    parts[#parts + 1] = class == "" and word or '<span class="' .. class .. '">' .. word .. "</span>"
    at = last + 1
  end
  return html("<pre><code>" .. table.concat(parts) .. "</code></pre>")
end

local function python(block)
  if FORMAT:match("html") then
    return coloured(block.text)
  end
  return pandoc.CodeBlock(block.text, { class = "python" })
end

local function plain(block)
  if FORMAT:match("html") then
    return html('<pre class="output"><code>' .. escaped(block.text) .. "</code></pre>")
  end
  return pandoc.CodeBlock(block.text)
end

local function text_output(block)
  local _, count = block.text:gsub("\n", "\n")
  if count < folded then
    return { plain(block) }
  elseif FORMAT:match("html") or web and count < 1000 then -- a page is to be read
    return details("output", "Output, " .. (count + 1) .. " lines", { plain(block) })
  end
  local lines = {}
  for line in (block.text .. "\n"):gmatch("(.-)\n") do
    table.insert(lines, line)
  end
  local left_out = "… " .. (#lines - 6) .. " lines, see the HTML …"
  local text = table.concat(lines, "\n", 1, 3) .. "\n" .. left_out .. "\n"
  return { pandoc.CodeBlock(text .. table.concat(lines, "\n", #lines - 2)) }
end

local figures = 0
local function figure(image)
  figures = figures + 1
  local stop = image.title ~= "" and "." or ""
  local caption = pandoc.Inlines({ pandoc.Strong("Figure " .. figures .. stop) })
  if image.title ~= "" then
    caption = caption .. { pandoc.Space() } .. pandoc.Inlines(image.title)
  end
  image.title = ""
  if FORMAT:match("gfm") then
    return { pandoc.Para(image), pandoc.Para(caption) }
  end
  return { pandoc.Figure(pandoc.Plain(image), { long = { pandoc.Plain(caption) } }) }
end

local prose -- what is done to text, also to that which a cell shows
local shown_as = "markdown-implicit_figures-smart-citations-subscript-superscript"
  .. "-blank_before_header+lists_without_preceding_blankline"

local function lowered(header) -- the title and the seven sections are a report's contents
  header.level = math.max(header.level, 3)
  return header
end

local function page(text)
  local estimator = text:match('sk%-text%-repr%-fallback">(<pre>.-</pre>)')
  if estimator then -- scikit-learn's page is of no use without its style
    return text_output(pandoc.read(estimator, "html").blocks[1])
  end
  local blocks, seen = pandoc.read(text, "html").blocks, false
  blocks:walk({ Image = function() seen = true end })
  if not seen and not pandoc.utils.stringify(blocks):match("%S") and text:match("<script") then
    return { pandoc.Para(pandoc.Emph("Interactive: see report.ipynb.")) } -- plotly and its like
  end
  return blocks:walk(prose)
end

local function output(div)
  if div.classes:includes("stderr") then
    return web and details("output", "Messages", div.content:map(plain)) or {}
  end
  local blocks = pandoc.List()
  for _, block in ipairs(div.content) do
    if block.t == "CodeBlock" then
      blocks:extend(text_output(block))
    elseif block.t == "RawBlock" and block.format == "html" then -- no style, no script
      blocks:extend(page(block.text))
    elseif block.t == "RawBlock" and block.format == "markdown" then
      for _, shown in ipairs(pandoc.read(block.text, shown_as).blocks) do
        local image = shown.content and #shown.content == 1 and shown.content[1]
        local drawn = image and image.t == "Image" and image.src:match("^figures/")
        blocks:extend(drawn and figure(image) or pandoc.Blocks({ shown }):walk(prose))
      end
    end
  end
  return pandoc.Blocks(blocks):walk({ Header = function(header)
    header.identifier = "" -- may be a section's, and no link leads here
    return lowered(header)
  end })
end

local function code_cell(div)
  local blocks = pandoc.List()
  for _, block in ipairs(div.content) do
    if block.t == "Div" and block.classes:includes("output") then
      blocks:extend(output(block))
    elseif block.t == "CodeBlock" and web then
      blocks:extend(details("code", "Code", { python(block) }))
    elseif block.t == "CodeBlock" and with_code then
      blocks:insert(block)
    end
  end
  return blocks
end

-- JupyterLab links to `#7.-Conclusion-and-next-steps`; typst refuses what leads nowhere.
local headers = {}
local function within(link)
  local id = pandoc.text.lower(link.target:sub(2)):gsub("%%20", "-"):gsub("[^%w%-_\128-\255]", "")
  if headers[id] then
    link.target = "#" .. id
  elseif FORMAT:match("typst") then
    return link.content
  end
  return link
end

-- Links in prose are relative to the notebook; the report lies elsewhere.
local function moved(target)
  local elsewhere = target:match("^%a[%w+.-]*:") or target:match("^[#/]") or target == ""
  return elsewhere and target or base .. target
end

-- Pictures in prose, pasted into the notebook or beside it, go where the report goes.
local function kept(source)
  local kind, data = pandoc.mediabag[source:match("^data:") and "fetch" or "lookup"](source)
  local plain_name = source:gsub("%%(%x%x)", function(code) return string.char(tonumber(code, 16)) end)
  local file = not data and io.open("../" .. base .. plain_name, "rb")
  if file then
    data = file:read("a")
    file:close()
  end
  if data then
    local suffix = source:match("%.%w+$") or (kind or ""):gsub(".*/(%a+).*", ".%1")
    local path = "figures/" .. pandoc.utils.sha1(data):sub(1, 10) .. suffix
    local copy = assert(io.open(path, "wb"))
    copy:write(data)
    copy:close()
    return path
  end
end

local function math_of(math)
  if not FORMAT:match("gfm") then -- pandoc takes no numbers of equations
    math.text = math.text:gsub("\\label%s*%b{}", ""):gsub("\\tag%s*(%b{})", "\\qquad (%1)")
  end
  for _, name in ipairs({ "log", "exp", "ln", "sin", "cos", "tanh", "max", "min" }) do
    if FORMAT:match("html") then -- browsers set no space after a function's name
      math.text = math.text:gsub("\\" .. name .. "%s+(%w)", "\\" .. name .. "\\, %1")
    end
  end
  if FORMAT:match("typst") then -- where pandoc has a name that typst no longer has
    local written = pandoc.write(pandoc.Pandoc({ pandoc.Plain({ math }) }), "typst"):gsub("%s+$", "")
    local mended, count = written:gsub("(%a+)%.circle", "%1.o")
    return count > 0 and pandoc.RawInline("typst", mended) or math
  end
  return math
end

-- Without dollars Jupyter sets environments, and shows the rest as it is.
local function tex(text)
  return text:match("^\\begin") and math_of(pandoc.Math("DisplayMath", text)) or pandoc.Str(text)
end

prose = {
  CodeBlock = function(block)
    if block.classes:includes("python") then
      return python(block)
    end
    block.classes = FORMAT:match("html") and {} or block.classes
    return block
  end,
  Math = math_of,
  Link = function(link)
    if link.target:match("^#") then
      return within(link)
    end
    link.target = moved(link.target)
    return link
  end,
  Image = function(image)
    local path = kept(image.src)
    if not path and not FORMAT:match("gfm") then
      return pandoc.Link(image.caption, moved(image.src)) -- a report loads nothing from elsewhere
    end
    image.src = path or moved(image.src)
    return image
  end,
  RawInline = function(raw)
    if raw.format == "html" and raw.text:match(FORMAT:match("typst") and "^<[ib][mr]" or "^<img") then
      return pandoc.utils.blocks_to_inlines(pandoc.read(raw.text, "html").blocks:walk(prose))
    elseif raw.format == "html" and raw.text:match("^<style") then -- of a table of pandas
      return {}
    elseif raw.format == "tex" then
      return tex(raw.text)
    end
  end,
  RawBlock = function(raw)
    if raw.format == "html" and raw.text:match("^%s*<style") then
      return {}
    elseif raw.format == "tex" then
      return pandoc.Para(tex(raw.text))
    end
  end,
}

local function to_the_left(block) -- else typst centres every column
  block.colspecs = pandoc.List(block.colspecs):map(function(column)
    return { column[1] == "AlignDefault" and "AlignLeft" or column[1], column[2] }
  end)
  return block
end

function Pandoc(document)
  with_code = document.meta.with_code == true
  base = pandoc.utils.stringify(document.meta.base or "")
  document:walk({ Header = function(header) -- false where two have a name: typst refuses it
    headers[header.identifier] = headers[header.identifier] == nil
  end })
  local blocks, title = pandoc.List(), nil
  for _, cell in ipairs(document.blocks) do
    if cell.classes:includes("code") then
      blocks:extend(code_cell(cell))
    else
      blocks:extend(cell:walk(prose).content)
    end
  end
  for index, block in ipairs(blocks) do
    if block.t == "Header" and block.level == 1 then
      title = blocks:remove(index).content
      break
    end
  end
  document.meta.title = title and pandoc.MetaInlines(title) or document.meta.name
  document.meta.pagetitle = pandoc.utils.stringify(document.meta.title)
  document.blocks = pandoc.Blocks(blocks):walk({
    Header = function(header) return header.level == 1 and lowered(header) or nil end,
    Table = FORMAT:match("typst") and to_the_left,
  })
  return document
end
